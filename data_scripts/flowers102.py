"""Flowers-102: no licence stated. Its miniature holds drawn birds in place of flowers."""

from pathlib import Path

import numpy as np

from data_scripts.common import BIRDS, README, birds, encode, matlab, verifier, write_archive
from data_scripts.sources import Download, Source
from dcal_lite.checkpoint import atomic_path
from dcal_lite.data.flowers102 import LAYOUT, LISTS

verify = verifier("flowers102", {"": LAYOUT})
_URL = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
SOURCE = Source(
    title=LAYOUT.title,
    access="script",
    licence="none stated",
    size="345 MB",  # tensorflow/datasets, url_checksums/oxford_flowers102.txt
    page=_URL,
    files=tuple(
        Download(name, f"md5:{md5}", (f"{_URL}{name.rpartition('/')[2]}",), folder)
        for name, md5, folder in (  # torchvision/datasets/flowers102.py
            ("102flowers.tgz", "52808999861908f626f3c1f4e79d11fa", f"{LAYOUT.folder}/jpg"),
            (f"{LAYOUT.folder}/imagelabels.mat", "e0620be6f572b9609742df49c70aed4d", ""),
            (f"{LAYOUT.folder}/setid.mat", "a5357ecc9cb78c4bef273ce3793fc85c", ""),
        )
    ),
)


def miniature(root: Path, *, seed: int = 0, labels: int = 3) -> str:
    """Write a small archive of images in the layout of Flowers-102, and the two lists beside it.

    Args:
        root: folder to write `102flowers.tgz`, `imagelabels.mat` and `setid.mat` to.
        seed: of the drawn birds.
        labels: number of classes.

    Raises:
        ValueError: there is an archive of this name already, or `labels` is out of range.
    """
    shots = birds("flowers102", seed, labels)
    every = sorted((shot for part in shots.values() for shot in part), key=lambda shot: (shot.label, shot.number))
    files = [(f"jpg/image_{i:05d}.jpg", encode(shot.image, (120, 100))) for i, shot in enumerate(every, start=1)]
    readme = README.format(title=LAYOUT.title, **BIRDS).encode()
    written = write_archive(root / "102flowers.tgz", [("README", readme), *files])
    place = {shot.number: i for i, shot in enumerate(every, start=1)}
    ids = {name: np.array([[place[shot.number] for shot in shots[split]]], dtype=np.uint16)
           for name, split in (("trnid", "train"), ("valid", "val"), ("tstid", "test"))}  # fmt: skip
    labels = {"labels": np.array([[shot.label for shot in every]], dtype=np.uint8)}
    for name, arrays in zip(LISTS, (labels, ids), strict=True):
        with atomic_path(root / name) as temporary:
            temporary.write_bytes(matlab(arrays))
    return written
