"""Finding the data's root, and unpacking archives: safely, once, whole or not at all."""

import fcntl
import os
import shutil
import stat
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from zipfile import BadZipFile, ZipFile, ZipInfo

from tqdm.auto import tqdm

_MAX_FILES = 1_000_000
_MAX_BYTES = 64 * 2**30
_CORRUPT = (BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, UnicodeDecodeError)
_CLASH = (FileExistsError, IsADirectoryError, NotADirectoryError)


def data_root(root: str | Path | None = None) -> Path:
    """The folder that holds the datasets: `root`, else the environment variable DCAL_DATA, else `data` right here."""
    return Path(root or os.environ.get("DCAL_DATA") or "data").expanduser()


def unpack(archive: str | Path, target: str | Path, *, folders: Iterable[str] = (), progress: bool = True) -> Path:
    """Unpack the top folder of a zip archive that is named like `target`; do nothing if `target` is there.

    Files are written to a hidden folder beside `target`, which is renamed at the end. A run that was killed leaves
    that hidden folder, and the next run removes it. A second process waits for the first.

    Args:
        archive: the zip file; only read.
        target: the folder to make, named like the archive's top folder.
        folders: folders that must be in the top folder, or it is the wrong archive.
        progress: show a progress bar.

    Returns:
        `target`.

    Raises:
        ValueError: the archive is missing, truncated, corrupt, not the expected one, or not safe to unpack.
    """
    archive, target = Path(archive).expanduser(), Path(target)
    if target.is_dir():
        return target
    if target.parent.exists() and not target.parent.is_dir():
        raise ValueError(f"{target.parent} is not a folder: pass root=, a folder to unpack {archive.name} into")
    with _opened(archive) as file:
        members = _members(file, target.name)
        _check_folders(archive, members, target.name, folders)
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.parent):
            if not target.is_dir():
                _extract(file, members, target, progress)
    return target


@contextmanager
def _opened(archive: Path) -> Iterator[ZipFile]:
    """The open archive; what is wrong with it becomes a ValueError."""
    if not archive.is_file():
        raise ValueError(f"there is no archive {archive}: check the path, or download it first")
    try:
        with ZipFile(archive) as file:
            yield file
    except _CORRUPT as error:
        with archive.open("rb") as start:
            zipped = start.read(4) == b"PK\3\4"
        what = f"is truncated or corrupt ({error})" if zipped else "is not a zip archive"
        raise ValueError(f"{archive} {what}: download it again") from error


def _members(file: ZipFile, top: str) -> dict[str, ZipInfo]:
    """The archive's files below the folder `top`, by their path below it, after every entry was found harmless."""
    entries = file.infolist()
    size = sum(entry.file_size for entry in entries)
    if len(entries) > _MAX_FILES or size > _MAX_BYTES:
        raise ValueError(
            f"{file.filename} would unpack to {len(entries):,} files and {size:,} bytes, more than the "
            f"{_MAX_FILES:,} files or {_MAX_BYTES:,} bytes allowed: is it the right archive?"
        )
    for entry in entries:
        _check_harmless(file, entry)
    below = [entry for entry in entries if entry.filename.startswith(f"{top}/") and not entry.is_dir()]
    members = {entry.filename.removeprefix(f"{top}/"): entry for entry in below}
    if len(members) < len(below):
        raise ValueError(f"{file.filename} holds two files of one name: do not use this archive")
    return members


def _check_harmless(file: ZipFile, entry: ZipInfo) -> None:
    """An entry is a plain file or folder, and its path is relative, spelt plainly and never leads upwards."""
    kind = stat.S_IFMT(entry.external_attr >> 16)
    encrypted = entry.flag_bits & 1
    plain = kind in (0, stat.S_IFREG, stat.S_IFDIR) and not encrypted
    parts = entry.filename.removesuffix("/").split("/")
    if not plain or {"", ".", ".."} & set(parts) or "\\" in entry.filename or ":" in entry.filename:
        raise ValueError(
            f"{file.filename} holds {entry.filename!r}, which is a link, a device, encrypted or outside "
            "of its folder: do not use this archive"
        )


def _check_folders(archive: Path, members: Iterable[str], top: str, folders: Iterable[str]) -> None:
    there = {path.partition("/")[0] for path in members if "/" in path}
    missing = [f"{top}/{folder}" for folder in folders if folder not in there]
    if missing:
        raise ValueError(f"{archive} holds no {missing[0]}: this is not the archive of {top}")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes out; the lock ends with the process, however it ends."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _extract(file: ZipFile, members: dict[str, ZipInfo], target: Path, progress: bool) -> None:
    """Write all members beside `target`, flush them to the disk, and rename."""
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # left by a run that was killed
    try:
        for path, entry in tqdm(members.items(), desc=f"unpack {target.name}", unit="file", disable=not progress):
            (part / path).parent.mkdir(parents=True, exist_ok=True)
            with file.open(entry) as source, (part / path).open("xb") as sink:
                shutil.copyfileobj(source, sink)
        os.sync()  # one flush of everything instead of one for each of many small files
        part.rename(target)
        os.sync()
    except _CLASH as error:
        raise ValueError(f"{file.filename} holds a file and a folder of one name: do not use this archive") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
