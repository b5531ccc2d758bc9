"""CUHK03: to be requested from its owners. Its miniature holds drawn people, and may be passed on."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_scripts.common import PEOPLE, README, File, Shot, encode, matlab, people, verifier, write_archive
from data_scripts.sources import Download, Source
from dcal_lite.data.cuhk03 import LAYOUTS, SPLITS
from dcal_lite.data.layout import Layout

verify = verifier("cuhk03")
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


def miniature(root: Path, *, seed: int = 0) -> str:
    """Write a small archive of the folder that torchreid makes, without the release's cuhk-03.mat.

    Args:
        root: folder to write `cuhk03.zip` to; the real dataset comes in no such archive.
        seed: of the drawn people.

    Raises:
        ValueError: there is an archive of this name already.
    """
    shots = {split: [shot for shot in chosen if shot.label and shot.camera <= 2]  # two views, no distractors
             for split, chosen in people(seed).items()}  # fmt: skip
    files = [("README.md", README.format(title="CUHK03", **PEOPLE).encode())]
    files += [file for layout in LAYOUTS.values() for file in _files(layout, shots)]
    return write_archive(root / "cuhk03.zip", files, folder="cuhk03")


def _files(layout: Layout, shots: dict[str, list[Shot]]) -> Iterator[File]:
    (images,) = layout.holds
    detected = images == "images_detected"
    if detected:  # detectors miss somebody and cut others
        shots = shots | {"train": shots["train"][1:]}
    chosen = sorted((_name(shot), shot) for split in shots.values() for shot in split)
    names = [name for name, _ in chosen]
    for name, shot in chosen:
        yield f"{images}/{name}", encode(shot.image[4:] if detected else shot.image, (60, 160), "PNG")
    lists = {SPLITS[split]: [names.index(_name(shot)) + 1 for shot in part] for split, part in shots.items()}
    columns = {name: np.array([sorted(numbers)], dtype=np.uint16).T for name, numbers in lists.items()}
    yield f"cuhk03_new_protocol_config_{images.removeprefix('images_')}.mat", matlab({
        "filelist": np.array(names, dtype=object)[:, None],
        "labels": np.array([[shot.label for _, shot in chosen]], dtype=np.uint16).T,
        "camId": np.array([[shot.camera for _, shot in chosen]], dtype=np.uint8).T,
        **columns,
    })  # fmt: skip


def _name(shot: Shot) -> str:
    number = shot.number % 4 + (1 if shot.camera == 1 else 6)  # the first view has numbers 1 to 5
    return f"{shot.label % 5 + 1}_{shot.label:03d}_{shot.camera}_{number:02d}.png"
