"""Market-1501: research only, no redistribution. Its miniature holds drawn people, and may be passed on."""

import io
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import numpy as np
from PIL import Image

from dcal_lite.data import Dataset, Split, load_dataset
from dcal_lite.data.market1501 import FOLDER, SPLITS

ARCHIVE = f"{FOLDER}.zip"
README = "A miniature of Market-1501 in its layout. All people are drawn (dcal_lite.data.promenade); none is real.\n"


def verify(root: Path) -> str:
    """Check the numbers of images and identities against the published ones, and that every image decodes.

    Args:
        root: folder that holds `Market-1501-v15.09.15`.

    Raises:
        ValueError: a number differs, or an image is broken.
    """
    dataset = load_dataset("market1501", root)
    for split in dataset.splits.values():
        split.images((1, 1), progress=True)
    return "\n".join(f"{name:8}{len(split):7,} images{len(split.classes):5} labels"
                     for name, split in dataset.splits.items())  # fmt: skip


def miniature(root: Path, *, seed: int = 0) -> str:
    """Write a small archive in the layout of Market-1501, all but the .mat files of gt_query.

    Args:
        root: folder to write `Market-1501-v15.09.15.zip` to.
        seed: of the drawn people.

    Raises:
        ValueError: there is an archive of this name already.
    """
    root.mkdir(parents=True, exist_ok=True)
    path = root / ARCHIVE
    if path.exists():
        raise ValueError(f"{path} exists: remove it, or choose another --root")
    part = path.with_suffix(".part")
    with ZipFile(part, "w", ZIP_DEFLATED) as archive:
        for name, content in sorted(_files(seed)):
            # A fixed date makes the archive a function of the seed.
            archive.writestr(ZipInfo(f"{FOLDER}/{name}", date_time=(2015, 9, 15, 0, 0, 0)), content)
    part.rename(path)
    return str(path)


def _files(seed: int) -> Iterator[tuple[str, bytes]]:
    """Name and content of every file in the archive."""
    yield "readme.txt", README.encode()
    world = load_dataset("promenade", seed=seed, size=(64, 32), train=3, test=2, strangers=4)
    numbers = _numbers(world)
    for split, folder in SPLITS.items():
        for name, image in _images(world[split], numbers):
            jpeg = _jpeg(image)
            yield f"{folder}/{name}", jpeg
            if not name.startswith("0000"):
                yield f"gt_bbox/{name}", jpeg  # in the real one, boxes drawn by hand
            elif split == "gallery":
                yield f"{folder}/-1{name[4:]}", _jpeg(image[:24])  # junk: a box that holds a part of somebody


def _numbers(world: Dataset) -> dict[int, int]:
    """New identities, in four digits: 0 for distractors, then training and test people."""
    people = np.concatenate([world["train"].classes, world["query"].classes])
    return {0: 0} | {int(person): i for i, person in enumerate(people, start=1)}


def _images(split: Split, numbers: dict[int, int]) -> Iterator[tuple[str, np.ndarray]]:
    """Market-1501's name of each image, and the image."""
    for record in split.records:
        frame = int(record.source.rpartition("/")[2]) % 1_000_000
        yield f"{numbers[record.label]:04d}_c{record.camera + 1}s1_{frame:06d}_01.jpg", split.read(record)


def _jpeg(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).resize((64, 128)).save(buffer, format="JPEG", quality=90)
    return buffer.getvalue()
