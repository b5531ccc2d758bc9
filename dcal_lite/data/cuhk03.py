"""CUHK03 (Li et al., CVPR 2014) in the new protocol (Zhong et al., CVPR 2017): 767 and 700 people, two views of each.

Boxes were drawn by hand ("labelled") or by a detector ("detected"): two datasets with scores of their own. Images lie
in `images_labeled` and `images_detected`, named `1_001_1_01.png`: pair of cameras, person, view, number. They are made
from the release's cuhk-03.mat, an HDF5 file that is not read here, by the CUHK03 class of torchreid or fast-reid. The
splits are the lists of cuhk03_new_protocol_config_labeled.mat and ..._detected.mat. The old protocol (20 random splits,
one gallery image a person) is not supported.
Layout: KaiyangZhou/deep-person-reid, torchreid/data/datasets/image/cuhk03.py; protocol: zhunzhong07/person-re-ranking,
CUHK03-NP/README.md.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from dcal_lite.data.layout import Layout
from dcal_lite.data.matlab import read_arrays
from dcal_lite.data.official import verify_counts
from dcal_lite.data.records import Dataset, Record, Split, reader
from dcal_lite.errors import check_choice

RELEASE = "cuhk03_release/cuhk-03.mat"
SPLITS = {"train": "train_idx", "query": "query_idx", "gallery": "gallery_idx"}


def _layout(boxes: str) -> Layout:
    return Layout(
        title=f"CUHK03 ({boxes})",
        folder="cuhk03",
        holds=(f"images_{boxes}",),
        example="1_001_1_01.png",
        pattern=r"[1-5]_(?P<label>\d{3,4})_(?P<camera>[12])_\d\d\.png",
    )


LAYOUTS = {"labelled": _layout("labeled"), "detected": _layout("detected")}


def load(
    root: str | Path | None = None,
    *,
    archive: str | Path | None = None,
    check_counts: bool = True,
    protocol: str = "labelled",
) -> Dataset:
    """CUHK03 with the splits train, query and gallery of the new protocol (1,400 queries).

    Args:
        root: folder that holds `cuhk03`, or that folder; None as in `data_root`.
        archive: an archive of that folder, to be unpacked into `root` unless that was done before.
        check_counts: insist on the official numbers of images and identities; False for miniatures.
        protocol: whose boxes, "labelled" or "detected"; to be told with every score.

    Raises:
        ValueError: the dataset is not there, or it is not what was published.

    Source:
        Zhong et al., "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR 2017.
    """
    check_choice("protocol of cuhk03", protocol, LAYOUTS)
    layout = LAYOUTS[protocol]
    folder = layout.find(root, archive)
    (images,) = layout.holds
    if not (folder / images).is_dir() and (folder / RELEASE).is_file():
        raise ValueError(
            f"{folder} holds {RELEASE} but no {images}: that file is HDF5, which is not read here; make the images "
            "with the CUHK03 class of torchreid or fast-reid first"
        )
    parts = _parts(layout, folder)
    if check_counts:
        verify_counts(f"cuhk03/{protocol}", layout.title, parts)
    return Dataset("cuhk03", "reid", {split: Split(records, reader(folder)) for split, records in parts.items()})


def _parts(layout: Layout, folder: Path) -> dict[str, tuple[Record, ...]]:
    """The records of each split, as the file of the new protocol lists them (numbers from 1)."""
    (images,) = layout.holds
    path = layout.file(folder, f"cuhk03_new_protocol_config_{images.removeprefix('images_')}.mat")
    names, labels, *lists = read_arrays(path, "filelist", "labels", *SPLITS.values())
    there = {record.source: record for record in layout.records(folder, images)}
    listed = np.concatenate(lists)
    if (
        len(names) != len(labels)
        or listed.dtype.kind not in "iu"
        or not (np.all(listed >= 1) and np.all(listed <= len(names)))
    ):
        raise ValueError(f"the lists of {path} do not fit together: get it again")
    absent = sorted({f"{images}/{names[i - 1]}" for i in listed} - there.keys())
    if absent:
        raise ValueError(
            f"{absent[0]} is listed in {path}, but not there, as are {len(absent)} images: make them again"
        )

    def records(numbers: np.ndarray) -> tuple[Record, ...]:
        return tuple(replace(there[f"{images}/{names[i - 1]}"], label=int(labels[i - 1])) for i in numbers)

    return {split: records(numbers) for split, numbers in zip(SPLITS, lists, strict=True)}
