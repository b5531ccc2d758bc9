"""CUHK03 (Li et al., CVPR 2014) in the new protocol (Zhong et al., CVPR 2017): 767 and 700 people, two views of each.

Boxes were drawn by hand ("labelled") or by a detector ("detected"): two datasets with scores of their own. The release
is one HDF5 file, cuhk03_release/cuhk-03.mat. Its images are written once, to `images_labeled` and `images_detected`,
and named as torchreid and fast-reid name them, `1_001_1_01.png`: pair of cameras, person, view, number. The splits are
the lists of cuhk03_new_protocol_config_labeled.mat and ..._detected.mat, which come from the protocol's authors and lie
beside these folders. The old protocol (the release's `testsets`: 20 random splits, one gallery image a person) is not
supported.
Layout: KaiyangZhou/deep-person-reid, torchreid/data/datasets/image/cuhk03.py, and JDAI-CV/fast-reid,
fastreid/data/datasets/cuhk03.py; protocol: zhunzhong07/person-re-ranking, CUHK03-NP/README.md.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from dcal_lite.data.archives import build, copy_beside, data_root, unpack
from dcal_lite.data.layout import Layout
from dcal_lite.data.matlab import load_h5py, read_arrays
from dcal_lite.data.official import verify_counts
from dcal_lite.data.records import Dataset, Files, Record, Split
from dcal_lite.errors import check_choice

RELEASE = "cuhk03_release/cuhk-03.mat"
SPLITS = {"train": "train_idx", "query": "query_idx", "gallery": "gallery_idx"}
PAIRS, SHOTS = 5, 10  # pairs of cameras; images of a person in the release, half of them by either view
_MOST = 999, 1000  # people of a pair, and pixels of a side, both far above what there is
_DAMAGED = (OSError, KeyError, TypeError, ValueError, AttributeError, RuntimeError)  # what h5py raises


def _layout(boxes: str, images: str) -> Layout:
    return Layout(
        title=f"CUHK03 ({boxes})",
        folder="cuhk03",
        holds=(images,),
        example="1_001_1_01.png",
        pattern=r"[1-5]_(?P<label>\d{3,4})_(?P<camera>[12])_\d\d\.png",
    )


LAYOUTS = {"labelled": _layout("labelled", "images_labeled"), "detected": _layout("detected", "images_detected")}
LISTS = {
    "images_labeled": "cuhk03_new_protocol_config_labeled.mat",
    "images_detected": "cuhk03_new_protocol_config_detected.mat",
}


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
        archive: cuhk03_release.zip, to be unpacked into that folder unless that was done before; the lists of the new
            protocol are looked for beside it.
        check_counts: insist on the official numbers of images and identities; False for miniatures.
        protocol: whose boxes, "labelled" or "detected"; to be told with every score.

    Raises:
        ValueError: the dataset is not there, or it is not what was published.

    Source:
        Zhong et al., "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR 2017.
    """
    check_choice("protocol of cuhk03", protocol, LAYOUTS)
    layout = LAYOUTS[protocol]
    if archive is not None:
        _unpack(Path(archive).expanduser(), layout.find(root))
    folder = find(root, layout)
    parts = read_parts(folder, layout)
    if check_counts:
        verify_counts(f"cuhk03/{protocol}", layout.title, parts)
    return Dataset("cuhk03", "reid", {split: Split(records, Files(folder)) for split, records in parts.items()})


def _unpack(archive: Path, folder: Path) -> None:
    release = folder / RELEASE
    unpack(archive, release.parent, holds=(release.name,))
    copy_beside(archive, folder, LISTS.values())


def find(root: str | Path | None, layout: Layout) -> Path:
    """The dataset's folder, in which the images are made if only the release's file is there.

    Raises:
        ValueError: that file is not the release, it is damaged, or h5py is missing.
    """
    root = data_root(root)
    folder = root if (root / RELEASE).is_file() else layout.find(root)
    (images,) = layout.holds
    if (folder / RELEASE).is_file() and not (folder / images).is_dir():
        build(folder / images, partial(_write_images, folder / RELEASE, images))
    return folder


def _write_images(release: Path, images: str, folder: Path) -> None:
    found = _images(release, images.removeprefix("images_"))
    for name, pixels in tqdm(found, desc=f"make {images}", unit="image"):
        Image.fromarray(pixels).save(folder / name)


def _images(release: Path, kind: str) -> Iterator[tuple[str, np.ndarray]]:
    """Name and pixels (H, W, 3) of every image of one kind, "labeled" or "detected".

    A cell array of MATLAB holds references: a cell for each pair of cameras, in it people x 10 cells with images, some
    of them empty. HDF5 has the axes of all MATLAB arrays in reverse order.
    """
    h5py = load_h5py()
    try:
        with h5py.File(release, "r", locking=False) as file:  # a read-only disk may not be able to lock
            pairs = file[kind]
            _check(pairs.shape in [(1, n + 1) for n in range(PAIRS)], f"{kind} is {pairs.shape}")
            for pair, people in enumerate(pairs[0], start=1):
                cells = file[people]
                _check(cells.ndim == 2 and cells.shape[0] == SHOTS and cells.shape[1] <= _MOST[0],
                       f"pair {pair} of {kind} is {cells.shape}")  # fmt: skip
                for (person, shot), cell in np.ndenumerate(cells[()].T):
                    name = f"{pair}_{person + 1:03d}_{1 + (shot >= SHOTS // 2)}_{shot + 1:02d}.png"
                    if file[cell].ndim == 3:  # an empty cell holds its sizes instead, in one row
                        yield name, _pixels(file[cell], name)
    except _DAMAGED as error:
        reason = str(error).partition("\n")[0].strip("'\"")
        raise ValueError(f"{release} is not the release of CUHK03, or damaged ({reason}): get it again") from error


def _pixels(image: "h5py.Dataset", name: str) -> np.ndarray:
    fits = image.shape[0] == 3 and 1 <= min(image.shape) <= max(image.shape) <= _MOST[1]
    _check(fits and image.dtype == np.uint8, f"image {name} is {image.shape} {image.dtype}")
    return image[()].transpose(2, 1, 0)


def _check(fine: bool, otherwise: str) -> None:
    if not fine:
        raise ValueError(otherwise)


def read_parts(folder: Path, layout: Layout) -> dict[str, tuple[Record, ...]]:
    """The records of each split, as the file of the new protocol lists them (numbers from 1)."""
    (images,) = layout.holds
    path = layout.file(folder, LISTS[images])
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
