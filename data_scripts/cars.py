"""Stanford Cars: research only. Its miniature holds drawn birds in place of cars."""

from collections.abc import Iterator

import numpy as np

from data_scripts.common import BIRDS, README, File, Shot, birds, encode, matlab, miniaturist, verifier
from data_scripts.sources import Download, Source
from dcal_lite.data.cars import LAYOUT, LISTS

BOX = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")
verify = verifier("cars", {"": LAYOUT})
# Size: tensorflow/datasets, url_checksums/cars196.txt. MD5 second hand: copies of torchvision's StanfordCars from the
# time when the files were there. The SHA-256 are not used: tensorflow/datasets and pytorch/vision's prototype have
# those of cars_train.tgz and car_devkit.tgz the other way round.
SOURCE = Source(
    title=LAYOUT.title,
    access="by hand",
    licence="research only (second hand)",
    size="1.96 GB",
    page="https://github.com/pytorch/vision/issues/7545",
    how="its owners' page and files are gone, and no copy of theirs is known",
    files=(
        Download("cars_train.tgz", "md5:065e5b463ae28d29e77c1b4b166cfe61", folder=f"{LAYOUT.folder}/cars_train"),
        Download("cars_test.tgz", "md5:4ce7ebf6a94d07f1952d94dd34c4d501", folder=f"{LAYOUT.folder}/cars_test"),
        Download("car_devkit.tgz", "md5:c3b158d763b6e2245038c8ad08e45376", folder=f"{LAYOUT.folder}/devkit"),
        Download(f"{LAYOUT.folder}/{LISTS['test']}", "md5:b0a2b23655a3edd16d84508592a98d10"),
    ),
)


def _files(seed: int, labels: int) -> Iterator[File]:
    """The folder that torchvision expects; the real dataset came in several archives."""
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


miniature = miniaturist(LAYOUT, _files, labels=3)
