"""What the scripts of all datasets share: miniatures made of drawn images, and the check of a real copy."""

import gzip
import io
import tarfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import IO, NamedTuple
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import numpy as np
from PIL import Image
from scipy.io import savemat
from tqdm.auto import tqdm

from dcal_lite.data import Record, Split, load_dataset
from dcal_lite.data.plumage import SPECIES, Plumage

File = tuple[str, bytes]  # name and content
README = "A miniature of {title} in its layout. All {what} are drawn ({world}); none is real.\n"
PEOPLE = {"what": "people", "world": "dcal_lite.data.promenade"}
VEHICLES = {"what": "vehicles are drawn people, as stand-ins: they", "world": "dcal_lite.data.promenade"}
BIRDS = {"what": "images", "world": "birds of dcal_lite.data.plumage, whatever the classes are called"}


class Shot(NamedTuple):
    """A drawn image of somebody: identity from 1 (0: a distractor), camera from 1, a number that no other shot has."""

    label: int
    camera: int
    number: int
    image: np.ndarray


def people(seed: int) -> dict[str, list[Shot]]:
    """The shots of each split: three people to train with, two others to find among them and four strangers."""
    world = load_dataset("promenade", seed=seed, size=(64, 32), train=3, test=2, strangers=4)
    known = [*world["train"].classes, *world["query"].classes]
    numbers = {0: 0} | {int(person): i for i, person in enumerate(known, start=1)}
    shots: dict[str, list[Shot]] = {}
    for name, split in world.splits.items():
        places = [int(record.source.rpartition("/")[2]) % 1_000_000 for record in split.records]
        shots[name] = [Shot(numbers[record.label], record.camera + 1, number, split.read(record))
                       for record, number in zip(split.records, places, strict=True)]  # fmt: skip
    return shots


def birds(seed: int) -> dict[str, list[Shot]]:
    """The shots of each split: three species, all of one camera."""
    world = Plumage(seed, (64, 64))
    rounds = {"train": range(4), "val": range(4, 6), "test": range(6, 9)}
    places = {split: [len(SPECIES) * i + k for k in range(3) for i in chosen] for split, chosen in rounds.items()}
    return {
        split: [Shot(i % len(SPECIES) + 1, 0, i, world.draw(i, masks=False).image) for i in numbers]
        for split, numbers in places.items()
    }


def encode(image: np.ndarray, size: tuple[int, int], kind: str = "JPEG") -> bytes:
    """An image file, resized to `size` (width, height)."""
    buffer = io.BytesIO()
    Image.fromarray(image).resize(size).save(buffer, format=kind, quality=90)
    return buffer.getvalue()


def write_archive(path: Path, files: Iterable[File], *, folder: str = "") -> str:
    """Write a zip or a tar.gz, whole or not at all; its bytes depend on `files` alone.

    Args:
        path: ends in .zip, .tgz or .tar.gz.
        files: names and contents.
        folder: the top folder that the names are put below; empty: none.

    Returns:
        `path`, as text.

    Raises:
        ValueError: the archive exists.
    """
    if path.exists():
        raise ValueError(f"{path} exists: remove it, or choose another --root")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    write = _write_zip if path.suffix == ".zip" else _write_tar
    with part.open("wb") as file:
        write(file, sorted((f"{folder}/{name}" if folder else name, content) for name, content in files))
    part.rename(path)
    return str(path)


def _write_zip(file: IO[bytes], files: Iterable[File]) -> None:
    with ZipFile(file, "w", ZIP_DEFLATED) as archive:
        for name, content in files:
            # A fixed date makes the archive a function of the files.
            archive.writestr(ZipInfo(name, date_time=(2015, 9, 15, 0, 0, 0)), content)


def _write_tar(file: IO[bytes], files: Iterable[File]) -> None:
    with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as zipped, tarfile.open(fileobj=zipped, mode="w") as archive:
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def verifier(name: str, check: Callable[[Path], None] | None = None) -> Callable[..., str]:
    """The function `verify` of a dataset's script.

    Args:
        name: as `load_dataset` knows it.
        check: a further test of the dataset's root; it raises ValueError.
    """

    def verify(root: Path, *, protocol: str | None = None) -> str:
        """Check the numbers of images and labels against the published ones, and that every image decodes.

        Args:
            root: folder that holds the dataset's folder.
            protocol: as in the dataset's `load`.

        Returns:
            A line for each split, and one that tells pictures of the training part that are in another one, too.

        Raises:
            ValueError: a number differs, or an image is broken.
        """
        dataset = load_dataset(name, root, **({} if protocol is None else {"protocol": protocol}))
        if check is not None:
            check(root)
        pictures = {split: _digests(data, split) for split, data in dataset.splits.items()}
        return "\n".join([*(_row(split, data) for split, data in dataset.splits.items()), _twins(pictures)])

    return verify


def _digests(split: Split, name: str) -> dict[bytes, str]:
    """The name of an image for every different picture of a split, all of which are decoded."""

    def digest(record: Record) -> bytes:
        return blake2b(split.read(record), digest_size=16).digest()

    with ThreadPoolExecutor() as pool:
        found = list(tqdm(pool.map(digest, split.records), desc=name, total=len(split), unit="image"))
    return {key: record.source for key, record in zip(found, split.records, strict=True)}


def _row(name: str, split: Split) -> str:
    return f"{name:8}{len(split):7,} images{len(split.classes):6,} labels{len(set(split.cameras)):4} cameras"


def _twins(pictures: dict[str, dict[bytes, str]]) -> str:
    """What is in the training part and elsewhere; that queries are in the gallery, too, is a dataset's own business."""
    elsewhere = {key: source for split, part in pictures.items() if split != "train" for key, source in part.items()}
    both = sorted((source, elsewhere[key]) for key, source in pictures["train"].items() if key in elsewhere)
    first = f", first {both[0][0]} as {both[0][1]}" if both else ""
    return f"pictures of train that are in another split, too: {len(both)}{first}"


def matlab(arrays: dict[str, np.ndarray]) -> bytes:
    """A MATLAB file (version 5) of these arrays, without the date that SciPy writes into it."""
    buffer = io.BytesIO()
    savemat(buffer, arrays)
    head = b"MATLAB 5.0 MAT-file, drawn by data_scripts".ljust(116)
    return head + buffer.getvalue()[len(head) :]


def numbered(lines: Iterable[str]) -> Iterator[str]:
    """Lines with their numbers in front, from 1."""
    return (f"{i} {line}" for i, line in enumerate(lines, start=1))


def text(lines: Iterable[str]) -> bytes:
    """A text file."""
    return "".join(f"{line}\n" for line in lines).encode()
