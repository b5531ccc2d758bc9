"""Stanford Cars (Krause et al., 2013): 196 models of cars. Research only; the official page is gone.

`cars_train` and `cars_test` hold images named by number; the devkit's MATLAB files have a struct array `annotations`
with the fields fname and class (from 1). The labels of the test images came as a file of their own,
cars_test_annos_withlabels.mat; the devkit's cars_test_annos.mat has none.
Layout: pytorch/vision, torchvision/datasets/stanford_cars.py.
"""

import re
from pathlib import Path

import numpy as np

from dcal_lite.data.layout import Layout
from dcal_lite.data.matlab import read_arrays
from dcal_lite.data.official import verify_counts
from dcal_lite.data.records import Dataset, Files, Record, Split

LAYOUT = Layout(title="Stanford Cars", folder="stanford_cars", holds=("cars_train", "cars_test", "devkit"))
LISTS = {"train": "devkit/cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}


def load(root: str | Path | None = None, *, archive: str | Path | None = None, check_counts: bool = True) -> Dataset:
    """Stanford Cars with the splits train and test (8,144 and 8,041 images).

    Args:
        root: folder that holds `stanford_cars`, or that folder; None as in `data_root`.
        archive: an archive of that folder, to be unpacked into `root` unless that was done before.
        check_counts: insist on the official numbers of images and classes; False for miniatures.

    Raises:
        ValueError: the dataset is not there, or it is not what was published.

    Source:
        Krause et al., "3D Object Representations for Fine-Grained Categorization", 3dRR workshop, ICCV 2013.
    """
    folder = LAYOUT.find(root, archive)
    parts = read_parts(folder)
    if check_counts:
        verify_counts("cars", LAYOUT.title, parts)
    return Dataset("cars", "fgvc", {split: Split(records, Files(folder)) for split, records in parts.items()})


def read_parts(folder: Path, layout: Layout = LAYOUT) -> dict[str, tuple[Record, ...]]:
    """The records of each split."""
    return {split: _records(folder, split, layout) for split in LISTS}


def _records(folder: Path, split: str, layout: Layout) -> tuple[Record, ...]:
    name = LISTS[split]
    if (folder / "devkit" / name).is_file():  # some put the labels of the test images into the devkit
        name = f"devkit/{name}"
    path = layout.file(folder, name)
    (annotations,) = read_arrays(path, "annotations")
    fields = annotations.dtype.names or ()
    if not {"class", "fname"} <= set(fields):
        raise ValueError(
            f"{path} must hold annotations with the fields class and fname, but has {', '.join(fields) or 'none'}: "
            "cars_test_annos.mat has no classes, take cars_test_annos_withlabels.mat"
        )
    return tuple(_record(path, split, row) for row in annotations)


def _record(path: Path, split: str, row: np.void) -> Record:
    if not re.fullmatch(r"\d+\.jpg", str(row["fname"]), re.ASCII) or not str(row["class"]).isdecimal():
        raise ValueError(f"{path} lists {str(row['fname'])[:80]!r}, not an image like 00001.jpg and its class")
    return Record(f"cars_{split}/{row['fname']}", int(row["class"]))
