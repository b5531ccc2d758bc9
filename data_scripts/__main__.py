"""Make a small stand-in of a dataset, or check a real copy: python -m data_scripts {miniature,verify} DATASET.

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

from dcal_lite.data import REAL

DATASETS = {name: import_module(f"data_scripts.{name}") for name in REAL}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a wrong input is one line on the error stream."""
    parser = argparse.ArgumentParser(
        prog="python -m data_scripts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("miniature", "verify"):
        command = commands.add_parser(name)
        command.add_argument("dataset", choices=DATASETS)
        command.add_argument("--root", type=Path, required=True, help="folder that holds, or will hold, the dataset")
    commands.choices["miniature"].add_argument("--seed", type=int, default=0, help="of the drawn images")
    commands.choices["miniature"].add_argument(
        "--labels", type=int, default=argparse.SUPPRESS, help="number of identities or classes"
    )
    commands.choices["verify"].add_argument("--protocol", help="version of msmt17 or cuhk03; else, what is there")
    options = vars(parser.parse_args(arguments))
    run = getattr(DATASETS[options.pop("dataset")], options.pop("command"))
    try:
        print(run(**options))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
