"""Stanford Cars: research only. Its miniature holds drawn birds in place of cars."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_scripts.common import BIRDS, README, File, Shot, birds, encode, matlab, verifier, write_archive
from dcal_lite.data.cars import LAYOUT, LISTS

BOX = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")
verify = verifier("cars", {"": LAYOUT})


def miniature(root: Path, *, seed: int = 0, labels: int = 3) -> str:
    """Write a small archive of the folder that torchvision expects.

    Args:
        root: folder to write `stanford_cars.zip` to; the real dataset came in several archives.
        seed: of the drawn birds.
        labels: number of classes.

    Raises:
        ValueError: there is an archive of this name already, or `labels` is out of range.
    """
    return write_archive(root / f"{LAYOUT.folder}.zip", _files(seed, labels), folder=LAYOUT.folder)


def _files(seed: int, labels: int) -> Iterator[File]:
    yield "README.txt", README.format(title=LAYOUT.title, **BIRDS).encode()
    shots = birds("cars", seed, labels)
    shots = {"train": shots["train"] + shots["val"], "test": shots["test"]}
    names = np.array([[f"Maker Model {2000 + label}" for label in range(1, labels + 1)]], dtype=object)
    yield "devkit/cars_meta.mat", matlab({"class_names": names})
    for split, chosen in shots.items():
        chosen = sorted(chosen, key=lambda shot: shot.number)
        yield LISTS[split], _annotations(chosen, (*BOX, "class", "fname"))
        for i, shot in enumerate(chosen, start=1):
            yield f"cars_{split}/{i:05d}.jpg", encode(shot.image, (120, 100))
    yield "devkit/cars_test_annos.mat", _annotations(shots["test"], (*BOX, "fname"))


def _annotations(shots: list[Shot], fields: tuple[str, ...]) -> bytes:
    """The struct array of one split; boxes are made up."""
    values = [dict(zip(BOX, (10, 10, 80, 80), strict=True)) | {"class": shot.label, "fname": f"{i:05d}.jpg"}
              for i, shot in enumerate(shots, start=1)]  # fmt: skip
    rows = [tuple(value[field] for field in fields) for value in values]
    return matlab({"annotations": np.array([rows], dtype=[(field, object) for field in fields])})
