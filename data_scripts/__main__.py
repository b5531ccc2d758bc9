"""Get a dataset, check it, or make a small stand-in: python -m data_scripts {list,fetch,verify,miniature} DATASET.

python -m data_scripts list                                 all datasets: size, counts, licence, how each is got
python -m data_scripts list market1501                      more about one
python -m data_scripts fetch cub --root data                download, check and unpack; goes on where it stopped
python -m data_scripts miniature market1501 --root data     a drawn dataset in Market-1501's layout
python -m data_scripts miniature cub --root data --labels 20
python -m data_scripts verify market1501 --root data        compare a real copy with what was published, image by image
python -m data_scripts verify msmt17 --root data --protocol V2
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from data_scripts.fetch import fetch
from data_scripts.sources import details, table
from dcal_lite.data import REAL

DATASETS = {name: import_module(f"data_scripts.{name}") for name in REAL}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a wrong input is one line on the error stream."""
    parser = argparse.ArgumentParser(
        prog="python -m data_scripts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list").add_argument("dataset", choices=DATASETS, nargs="?")
    for name in ("fetch", "verify", "miniature"):
        command = commands.add_parser(name)
        command.add_argument("dataset", choices=DATASETS)
        command.add_argument("--root", type=Path, required=True, help="folder that holds, or will hold, the dataset")
    commands.choices["miniature"].add_argument("--seed", type=int, default=0, help="of the drawn images")
    commands.choices["miniature"].add_argument(
        "--labels", type=int, default=argparse.SUPPRESS, help="number of identities or classes"
    )
    commands.choices["verify"].add_argument("--protocol", help="version of msmt17 or cuhk03; else, what is there")
    try:
        print(_run(**vars(parser.parse_args(arguments))))
    except (ValueError, OSError) as error:  # a wrong root, a full disk
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped: run the same command again", file=sys.stderr)
        return 130
    return 0


def _run(command: str, dataset: str | None, **options: object) -> str:
    if dataset is None:
        return table({name: script.SOURCE for name, script in DATASETS.items()})
    script = DATASETS[dataset]
    if command == "list":
        return details(dataset, script.SOURCE)
    if command == "fetch":
        return fetch(dataset, script.SOURCE, **options)
    return getattr(script, command)(**options)


if __name__ == "__main__":
    sys.exit(main())
