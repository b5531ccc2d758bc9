"""CUHK03: to be requested from its owners. Its miniature holds drawn people, and may be passed on."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_scripts.common import PEOPLE, README, Shot, matlab, people, verifier, write_archive
from data_scripts.sources import Download, Source
from dcal_lite.checkpoint import atomic_path
from dcal_lite.data.cuhk03 import LAYOUTS, LISTS, PAIRS, RELEASE, SHOTS, SPLITS, find
from dcal_lite.data.matlab import load_h5py

HEADER = b"MATLAB 7.3 MAT-file, drawn by data_scripts".ljust(124) + b"\0\2IM"

verify = verifier("cuhk03", LAYOUTS, find=find)
SOURCE = Source(
    title="CUHK03",
    access="on request",
    licence="research only (second hand)",
    size="unknown",
    page="http://www.ee.cuhk.edu.hk/~xgwang/CUHK_identification.html",
    how="ask its owners for the release by the form on their page, and take the lists of the new protocol from "
    "CUHK03-NP in https://github.com/zhunzhong07/person-re-ranking",
    files=(
        # second hand: Cysu/open-reid, reid/datasets/cuhk03.py
        Download("cuhk03_release.zip", "md5:728939e58ad9f0ff53e521857dd8fb43", folder="cuhk03/cuhk03_release"),
        Download("cuhk03/cuhk03_new_protocol_config_labeled.mat"),
        Download("cuhk03/cuhk03_new_protocol_config_detected.mat"),
    ),
)


def miniature(root: Path, *, seed: int = 0, labels: int = 5) -> str:
    """Write a small archive of the release, which is one MATLAB file, and the lists of the new protocol beside it.

    Args:
        root: folder to write `cuhk03_release.zip` and the lists to.
        seed: of the drawn people.
        labels: number of people, to train with and to find.

    Raises:
        ValueError: there is an archive of this name already, or `labels` is out of range.
    """
    shots = {split: [shot for shot in chosen if shot.label and shot.camera <= 2]  # two views, no distractors
             for split, chosen in people("cuhk03", seed, labels).items()}  # fmt: skip
    kinds = {"images_labeled": shots, "images_detected": shots | {"train": shots["train"][1:]}}  # detectors miss some
    folder, name = RELEASE.split("/")
    files = [("README.md", README.format(title="CUHK03", **PEOPLE).encode()), (name, _release(kinds, labels))]
    written = write_archive(root / f"{folder}.zip", files, folder=folder)
    for images, chosen in kinds.items():
        with atomic_path(root / LISTS[images]) as temporary:
            temporary.write_bytes(_lists(chosen))
    return written


def _release(kinds: dict[str, dict[str, list[Shot]]], labels: int) -> bytes:
    """A MATLAB file of version 7.3: HDF5 behind a block of 512 bytes that begins with a text."""
    sizes = [len(range(pair, labels, PAIRS)) for pair in range(min(PAIRS, labels))]
    buffer = io.BytesIO()
    with load_h5py().File(buffer, "w", userblock_size=512) as file:
        for images, shots in kinds.items():
            people = [np.full((size, SHOTS), None) for size in sizes]
            for shot in (shot for part in shots.values() for shot in part):
                pair, person, _, number = _place(shot)
                box = shot.image[4:] if images == "images_detected" else shot.image  # detectors cut people
                people[pair - 1][person - 1, number - 1] = np.asarray(Image.fromarray(box).resize((60, 160)))
            _write(file, images.removeprefix("images_"), _column(people))
        test = np.unique([_place(shot)[:2] for shot in shots["query"]], axis=0).astype(float)
        _write(file, "testsets", _column([test] * 20))  # of the old protocol
    return HEADER + buffer.getvalue()[len(HEADER) :]


def _column(items: list[np.ndarray]) -> np.ndarray:
    """A column of cells."""
    cells = np.full((len(items), 1), None)
    for i, item in enumerate(items):
        cells[i, 0] = item
    return cells


def _write(file: Any, name: str, value: np.ndarray | None) -> Any:
    """Write numbers, cells (an array of objects) or an empty cell (None) as MATLAB does, with the axes reversed."""
    data, kind = np.zeros(2, dtype=np.uint64), "double"  # the two sizes of an empty matrix
    if value is not None and value.dtype == object:
        inner = f"#refs#/{name.removeprefix('#refs#/')}"
        cells = [_write(file, f"{inner}-{i}", cell).ref for i, cell in enumerate(value.T.flat)]
        data, kind = np.array(cells, dtype=load_h5py().ref_dtype).reshape(value.T.shape), "cell"
    elif value is not None:
        data, kind = value.T, "double" if value.dtype == float else value.dtype.name
    dataset = file.create_dataset(name, data=data, compression=None if value is None else "gzip")
    dataset.attrs["MATLAB_class"] = np.bytes_(kind)
    if value is None:
        dataset.attrs["MATLAB_empty"] = np.uint8(1)
    return dataset


def _lists(shots: dict[str, list[Shot]]) -> bytes:
    """The MATLAB file of the new protocol for boxes of one kind."""
    chosen = sorted((_name(shot), shot) for split in shots.values() for shot in split)
    names = [name for name, _ in chosen]
    place = {name: i for i, name in enumerate(names, start=1)}
    lists = {SPLITS[split]: [place[_name(shot)] for shot in part] for split, part in shots.items()}
    columns = {name: np.array([sorted(numbers)], dtype=np.uint16).T for name, numbers in lists.items()}
    return matlab({
        "filelist": np.array(names, dtype=object)[:, None],
        "labels": np.array([[shot.label for _, shot in chosen]], dtype=np.uint16).T,
        "camId": np.array([[shot.camera for _, shot in chosen]], dtype=np.uint8).T,
        **columns,
    })  # fmt: skip


def _place(shot: Shot) -> tuple[int, int, int, int]:
    """Pair of cameras, person of that pair, view, and number; the first view has the numbers 1 to 5."""
    person, pair = divmod(shot.label - 1, PAIRS)
    return pair + 1, person + 1, shot.camera, shot.number % 4 + (1 if shot.camera == 1 else 6)


def _name(shot: Shot) -> str:
    return "{}_{:03d}_{}_{:02d}.png".format(*_place(shot))
