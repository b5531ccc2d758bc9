"""Run the book's notebooks side by side and keep their outputs where Jupyter Book looks for them.

Jupyter Book runs notebooks one after the other. What it finds in its cache it does not run.
"""

import logging
import sys

import yaml
from jupyter_cache import get_cache
from jupyter_cache.executors import load_executor

from tests.notebooks import PAGES, ROOT


def main() -> int:
    """Run what is not in the cache yet; return 1 if a notebook failed."""
    cache = get_cache(ROOT / "_build" / ".jupyter_cache")
    for page in PAGES:
        if (path := ROOT / f"{page}.ipynb").exists():
            cache.add_nb_to_project(str(path))
    logging.basicConfig(format="%(message)s")
    execute = yaml.safe_load((ROOT / "_config.yml").read_text())["execute"]
    logger = logging.getLogger("execute")
    logger.setLevel(logging.INFO)
    result = load_executor("local-parallel", cache, logger=logger).run_and_cache(timeout=execute["timeout"])
    return int(bool(result.excepted or result.errored))


if __name__ == "__main__":
    sys.exit(main())
