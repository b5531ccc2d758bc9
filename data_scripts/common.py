"""What the scripts of all datasets share: miniatures made of drawn images, and the check of a real copy."""

import gzip
import io
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from typing import IO, NamedTuple
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import numpy as np
from PIL import Image
from scipy.io import savemat
from tqdm.auto import tqdm

from dcal_lite.checkpoint import atomic_path
from dcal_lite.data import Record, load_dataset, official
from dcal_lite.data.layout import Layout
from dcal_lite.data.plumage import SPECIES, Plumage
from dcal_lite.data.records import read_image
from dcal_lite.errors import check_choice

File = tuple[str, bytes]  # name and content
README = "A miniature of {title} in its layout. All {what} are drawn ({world}); none is real.\n"
PEOPLE = {"what": "people", "world": "dcal_lite.data.promenade"}
VEHICLES = {"what": "vehicles are drawn people, as stand-ins: they", "world": "dcal_lite.data.promenade"}
BIRDS = {"what": "images", "world": "birds of dcal_lite.data.plumage, whatever the classes are called"}
_SHOWN = 20  # problems


class Shot(NamedTuple):
    """A drawn image of somebody: identity from 1 (0: a distractor), camera from 1, a number that no other shot has."""

    label: int
    camera: int
    number: int
    image: np.ndarray


def people(name: str, seed: int, labels: int) -> dict[str, list[Shot]]:
    """The shots of each split: one half of the people to train with, the other to find among them and four strangers.

    Raises:
        ValueError: as from `train_and_test`.
    """
    train, test = train_and_test(name, labels)
    world = load_dataset("promenade", seed=seed, size=(64, 32), train=train, test=test, strangers=4)
    known = [*world["train"].classes, *world["query"].classes]
    numbers = {0: 0} | {int(person): i for i, person in enumerate(known, start=1)}
    shots: dict[str, list[Shot]] = {}
    for name, split in world.splits.items():
        places = [int(record.source.rpartition("/")[2]) % 1_000_000 for record in split.records]
        shots[name] = [Shot(numbers[record.label], record.camera + 1, number, split.read(record))
                       for record, number in zip(split.records, places, strict=True)]  # fmt: skip
    return shots


def train_and_test(name: str, labels: int) -> tuple[int, int]:
    """The halves of a miniature's people; the names of its files hold as many as the real dataset has.

    Raises:
        ValueError: there are fewer than 2 people, or more than in the real dataset.
    """
    train, query, *_ = _published(name)
    _check_labels(labels, train + query)
    return labels - labels // 2, labels // 2


def birds(name: str, seed: int, labels: int) -> dict[str, list[Shot]]:
    """The shots of each split: one species for each class, again from the first where they run out; one camera.

    Raises:
        ValueError: there are fewer than 2 classes, or more than in the real dataset.
    """
    _check_labels(labels, max(_published(name)))
    world = Plumage(seed, (64, 64))
    step = len(SPECIES) * -(-labels // len(SPECIES))  # from one image of a class to the next, of the same species
    rounds = {"train": range(4), "val": range(4, 6), "test": range(6, 9)}
    return {
        split: [Shot(k + 1, 0, step * i + k, world.draw(step * i + k, masks=False).image)
                for k in range(labels) for i in chosen]
        for split, chosen in rounds.items()
    }  # fmt: skip


def _published(name: str) -> list[int]:
    """The numbers of labels in the parts of the real dataset."""
    key = next(key for key in official.COUNTS if key.partition("/")[0] == name)
    return [labels for _, labels in official.COUNTS[key].values()]


def _check_labels(labels: int, most: int) -> None:
    if not 2 <= labels <= most:
        raise ValueError(f"labels must be 2 to {most}, as many as the real dataset has, got {labels}: change --labels")


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
    members = sorted((f"{folder}/{name}" if folder else name, content) for name, content in files)
    write = _write_zip if path.suffix == ".zip" else _write_tar
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        write(file, members)
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


def miniaturist(
    layout: Layout, files: Callable[[int, int], Iterable[File]], *, suffix: str = ".zip", labels: int = 5
) -> Callable[..., str]:
    """The function `miniature` of the script of a dataset whose archive is named like its folder.

    Args:
        layout: whose folder and archive.
        files: all files below the folder, given the seed and the number of labels.
        suffix: of the archive.
        labels: how many, where the caller does not say.
    """
    usual = labels

    def miniature(root: Path, *, seed: int = 0, labels: int = usual) -> str:
        """Write a small archive of drawn images in the dataset's layout.

        Args:
            root: folder to write the archive to.
            seed: of the drawn images.
            labels: number of people (those to train with and those to find) or of classes.

        Raises:
            ValueError: there is an archive of this name already, or `labels` is out of range.
        """
        return write_archive(root / f"{layout.folder}{suffix}", files(seed, labels), folder=layout.folder)

    return miniature


def verifier(
    name: str,
    layouts: Mapping[str, Layout],
    *,
    find: Callable[[Path, Layout], Path] = lambda root, layout: layout.find(root),
    check: Callable[[Path], None] | None = None,
) -> Callable[..., str]:
    """The function `verify` of a dataset's script.

    Args:
        name: as `load_dataset` knows it.
        layouts: of each version, by the protocol that reads it; of the only one by "".
        find: tells the folder of a layout in a root.
        check: a further test of the dataset's folder; it raises ValueError.
    """

    def verify(root: Path, *, protocol: str | None = None) -> str:
        """Compare a copy with what was published: print a table, and all that is wrong.

        Every image is decoded. Several versions are told apart by their folders, whatever these lie in.

        Args:
            root: folder that holds the dataset's folder.
            protocol: the version to verify; None: every one that is there.

        Returns:
            One line that says that all is well.

        Raises:
            ValueError: the dataset is not there, or anything is wrong with it.
        """
        if protocol is not None:
            if "" in layouts:
                raise ValueError(f"all protocols of {name} read the same files: leave --protocol out")
            check_choice(f"version of {name}", protocol, layouts)
        folders = [find(root, layout) for layout in layouts.values()]
        there = {version: folder for version, layout in layouts.items() for folder in folders
                 if any((folder / part).exists() for part in layout.holds)}  # fmt: skip
        chosen = [version for version in there if protocol in (None, version)]
        if not chosen:
            wanted = layouts[protocol] if protocol else next(iter(layouts.values()))
            others = " and ".join(f"{folder} holds {layouts[version].title}" for version, folder in there.items())
            raise ValueError(f"{others}, not {wanted.title}") if there else wanted.missing("folder", folders[0])
        problems = [_verify(name, version, layouts[version], there[version], check) for version in chosen]
        titles = " and ".join(layouts[version].title for version in chosen)
        if any(problems):
            raise ValueError(f"{titles}: not as published, see the problems above ({sum(problems)})")
        return f"{titles}: as published"

    return verify


def _verify(name: str, version: str, layout: Layout, folder: Path, check: Callable[[Path], None] | None) -> int:
    """Print the table of one version and its problems; return their number."""
    print(f"{layout.title} in {folder}")
    try:
        parts = import_module(f"dcal_lite.data.{name}").read_parts(folder, layout)
    except ValueError as error:
        print(f"problem: {error}")
        return 1
    key = f"{name}/{version}" if f"{name}/{version}" in official.COUNTS else name
    print(_table(name, key, parts))
    problems = official.wrong_counts(key, layout.title, parts)
    if (cameras := _cameras(*parts.values())) != official.CAMERAS.get(name, cameras):
        problems.append(f"{layout.title} has {official.CAMERAS[name]} cameras, but {cameras} are there")
    if all(len(records) < official.COUNTS[key][part][0] for part, records in parts.items()):
        print("every part is smaller than published: an incomplete copy, or a miniature (load with check_counts=False)")
    pictures = {part: _digests(part, records, folder, problems) for part, records in parts.items()}
    twins = _twins(pictures)
    known = official.TWINS.get(name, set()) & set(twins)
    problems += [f"{one} and {other} are the same picture" for one, other in twins if (one, other) not in known]
    if check is not None:
        try:
            check(folder)
        except ValueError as error:
            problems.append(str(error))
    for one, other in sorted(known):
        print(f"as published: {one} and {other} are the same picture")
    for problem in problems[:_SHOWN]:
        print(f"problem: {problem}")
    if len(problems) > _SHOWN:
        print(f"... and {len(problems) - _SHOWN:,} more")
    return len(problems)


def _table(name: str, key: str, parts: Mapping[str, Sequence[Record]]) -> str:
    """What is there beside what was published, with a star where that is known only second hand."""
    hearsay = official.SECOND_HAND.get(key, {})
    rows = [["part", "images", "official", "labels", "official", "cameras", "official"]]
    for part, records in parts.items():
        pairs = zip(official.count(records), official.COUNTS[key][part], strict=True)
        star = "*" if part in hearsay else " "
        cells = [cell for found, published in pairs for cell in (f"{found:,}", f"{published:,}{star}")]
        rows.append([part, *cells, str(_cameras(records)), ""])
    if name in official.CAMERAS:
        rows.append(["all", *[""] * 4, str(_cameras(*parts.values())), f"{official.CAMERAS[name]} "])
    else:
        rows = [row[:5] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) if i else cell.ljust(width)
                       for i, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
             for row in rows]  # fmt: skip
    return "\n".join([*lines, *(f"* second hand: {source}" for source in sorted(set(hearsay.values())))])


def _cameras(*parts: Sequence[Record]) -> int:
    return len({record.camera for records in parts for record in records})


def _digests(part: str, records: Sequence[Record], folder: Path, problems: list[str]) -> dict[bytes, str]:
    """The name of an image for every different picture; why an image cannot be decoded is added to `problems`."""

    def digest(record: Record) -> bytes | str:
        try:
            return blake2b(read_image(folder / record.source), digest_size=16).digest()
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor() as pool:
        found = list(tqdm(pool.map(digest, records), desc=part, total=len(records), unit="image"))
    problems += [reason for reason in found if isinstance(reason, str)]
    return {key: record.source for key, record in zip(found, records, strict=True) if isinstance(key, bytes)}


def _twins(pictures: Mapping[str, dict[bytes, str]]) -> list[tuple[str, str]]:
    """The images that show one picture and are in two parts, of which one is to train or validate with, one to test.

    Queries may be in the gallery, and `gt_bbox` may hold anything.
    """
    train, *others = (part for part in pictures if part != "gt_bbox")
    pairs = [(train, other) for other in others]
    if "val" in others:
        pairs.append(("val", "test"))
    return sorted((pictures[one][key], pictures[other][key]) for one, other in pairs
                  for key in pictures[one].keys() & pictures[other].keys())  # fmt: skip


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
