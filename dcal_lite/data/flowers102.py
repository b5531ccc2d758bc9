"""Oxford Flowers-102 (Nilsback and Zisserman, 2008): 102 species of flowers. No licence is stated.

Images are `jpg/image_00001.jpg`, numbered from 1; imagelabels.mat has their classes (from 1), setid.mat the numbers of
the parts (trnid, valid, tstid). The official training part is the small one.
Layout: pytorch/vision, torchvision/datasets/flowers102.py, and the official files themselves.
"""

from pathlib import Path

import numpy as np

from dcal_lite.data.archives import copy_beside, unpack
from dcal_lite.data.layout import Layout, train_and_val
from dcal_lite.data.matlab import read_arrays
from dcal_lite.data.official import verify_counts
from dcal_lite.data.records import Dataset, Files, Record, Split
from dcal_lite.errors import check_choice

PROTOCOLS = ("trainval", "train")
LISTS = ("imagelabels.mat", "setid.mat")
LAYOUT = Layout(title="Flowers-102", folder="flowers-102", holds=("jpg", *LISTS))


def load(
    root: str | Path | None = None,
    *,
    archive: str | Path | None = None,
    check_counts: bool = True,
    protocol: str = "trainval",
) -> Dataset:
    """Flowers-102 with the splits train and test (2,040 and 6,149 images).

    Args:
        root: folder that holds `flowers-102`, or that folder; None as in `data_root`.
        archive: 102flowers.tgz, to be unpacked into `root` unless that was done before; imagelabels.mat and setid.mat
            are looked for beside it.
        check_counts: insist on the official numbers of images and classes; False for miniatures.
        protocol: "trainval" trains on the validation images, too; "train" has them as a split val.

    Raises:
        ValueError: the dataset is not there, or it is not what was published.

    Source:
        Nilsback and Zisserman, "Automated Flower Classification over a Large Number of Classes", ICVGIP 2008.
    """
    check_choice("protocol of flowers102", protocol, PROTOCOLS)
    folder = LAYOUT.find(root)
    if archive is not None:
        archive = Path(archive).expanduser()
        unpack(archive, folder / "jpg")
        copy_beside(archive, folder, LISTS)
    parts = read_parts(folder)
    if check_counts:
        verify_counts("flowers102", LAYOUT.title, parts)
    splits = train_and_val(parts, protocol)
    return Dataset("flowers102", "fgvc", {split: Split(records, Files(folder)) for split, records in splits.items()})


def read_parts(folder: Path, layout: Layout = LAYOUT) -> dict[str, tuple[Record, ...]]:
    """The records of each list."""
    labels_file, lists_file = (layout.file(folder, name) for name in LISTS)
    (labels,) = read_arrays(labels_file, "labels")
    lists = read_arrays(lists_file, "trnid", "valid", "tstid")
    numbers = np.sort(np.concatenate(lists))
    if not np.array_equal(numbers, np.arange(1, len(labels) + 1)):
        raise ValueError(f"{lists_file} does not part the {len(labels):,} images of {labels_file}: get both again")
    return {
        part: tuple(Record(f"jpg/image_{i:05d}.jpg", int(labels[i - 1])) for i in chosen)
        for part, chosen in zip(("train", "val", "test"), lists, strict=True)
    }
