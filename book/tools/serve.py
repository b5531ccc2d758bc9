"""Serve the built book; when a source changes, build it anew and reload the pages that are open.

`python book/tools/serve.py 8000` is a part of `make serve`.
"""

import shutil
import subprocess
import sys

from livereload import Server
from livereload.handlers import StaticFileHandler

SOURCES = ("book", "dcal_lite", "data_scripts", "_config.yml", "_toc.yml", "CHANGELOG.md", "CITATION.cff")


class Fresh(StaticFileHandler):
    """Tornado lets browsers keep what has a version in its address; but that version changes with the pages only."""

    def get_cache_time(self, *_) -> int:
        return 0


def build() -> None:
    """Build the pages that changed. What is wrong with them is printed; the server goes on."""
    subprocess.run(["make", "--no-print-directory", "pages"], check=False)
    shutil.copytree("book/assets", "_build/html/_static", dirs_exist_ok=True)  # Sphinx does so only with a changed page


def main(port: str) -> None:
    server = Server()
    server.SFH = Fresh
    for source in SOURCES:
        server.watch(source, build)
    server.serve(port=int(port), root="_build/html", live_css=False)


if __name__ == "__main__":
    main(sys.argv[1])
