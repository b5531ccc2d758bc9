"""Datasets: readers of real ones and two drawn ones, all of one shape (`records.Dataset`)."""

from importlib import import_module
from inspect import signature
from pathlib import Path

from dcal_lite.data.records import Dataset, Record, Split
from dcal_lite.errors import check_choice

__all__ = ["REAL", "TOYS", "Dataset", "Record", "Split", "list_datasets", "load_dataset"]

TOYS = ("plumage", "promenade")
REAL = ("aircraft", "cars", "cub", "cuhk03", "dukemtmcreid", "flowers102", "ltcc", "market1501", "msmt17", "veri776")
_DATASETS = tuple(sorted(TOYS + REAL))  # each a module here, with a function `load`


def list_datasets() -> list[str]:
    """The names `load_dataset` knows."""
    return list(_DATASETS)


def load_dataset(name: str, root: str | Path | None = None, **options: object) -> Dataset:
    """Load a dataset by name.

    Args:
        name: one of `list_datasets()`.
        root: folder that holds the dataset; None takes the environment variable DCAL_DATA, else `data`.
        options: passed to the dataset's `load` function (`archive=`, `seed=`, ...).

    Raises:
        ValueError: the name or an option is unknown, or the dataset is not there or not what it should be.
    """
    check_choice("dataset", name, _DATASETS)
    load = import_module(f"{__name__}.{name}").load
    for option in options:
        check_choice(f"option of {name}", option, list(signature(load).parameters)[1:])
    return load(root, **options)
