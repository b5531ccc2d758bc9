"""Finding the data's root, and unpacking archives: safely, once, whole or not at all."""

import errno
import lzma
import os
import shutil
import stat
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple
from zipfile import BadZipFile, ZipFile

from filelock import FileLock
from tqdm.auto import tqdm

from dcal_lite.checkpoint import atomic_path, flush

_MAX_FILES = 1_000_000
_MAX_BYTES = 64 * 2**30
_CORRUPT = (BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error, EOFError, IndexError,
            NotImplementedError, UnicodeDecodeError, OSError)  # fmt: skip
_CLASH = (FileExistsError, IsADirectoryError, NotADirectoryError)
_ZIP, _PACKED = b"PK\3\4", (b"\x1f\x8b", b"BZh", b"\xfd7zXZ")  # how zip files, and compressed tar files, begin


class _Entry(NamedTuple):
    """What an archive holds under one path."""

    path: str
    size: int
    folder: bool
    plain: bool  # a file or folder, neither encrypted nor a link nor a device
    open: Callable[[], IO[bytes]]


def data_root(root: str | Path | None = None) -> Path:
    """The folder that holds the datasets: `root`, else the environment variable DCAL_DATA, else `data` right here."""
    return Path(root or os.environ.get("DCAL_DATA") or "data").expanduser()


def unpack(archive: str | Path, target: str | Path, *, holds: Iterable[str] = (), progress: bool = True) -> Path:
    """Unpack the top folder of a zip or tar archive that is named like `target`; do nothing if `target` is there.

    The folder appears whole or not at all, as in `build`.

    Args:
        archive: the zip or tar file (plain, gz, bz2 or xz); only read.
        target: the folder to make, named like the archive's top folder.
        holds: folders and files that must be in the top folder, or it is the wrong archive.
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
    with _opened(archive) as entries:
        members, tops = _members(archive, entries, target.name)
        _check_holds(archive, members, target.name, holds, tops)
        build(target, partial(_extract, archive, members, progress))
    return target


def build(target: Path, write: Callable[[Path], None]) -> None:
    """Make a folder whole or not at all; do nothing if it is there.

    A run that was killed leaves a hidden folder, and the next run removes it. A second process waits for the first.

    Args:
        target: the folder to make.
        write: fills the folder that it is given, a hidden one beside `target` that is then flushed to disk and renamed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    with locked(target):
        if target.is_dir():
            return
        shutil.rmtree(part, ignore_errors=True)  # left by a run that was killed
        try:
            part.mkdir()
            write(part)
            _flush_all(part)
            part.rename(target)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def copy_beside(archive: Path, folder: Path, names: Iterable[str]) -> None:
    """Copy the files of these names that lie beside an archive into a folder, each whole; replace none."""
    for name in names:
        if (archive.parent / name).is_file() and not (folder / name).exists():
            with atomic_path(folder / name) as temporary:
                shutil.copyfile(archive.parent / name, temporary)


@contextmanager
def _opened(archive: Path) -> Iterator[Iterator[_Entry]]:
    """The entries of the open archive; what is wrong with it becomes a ValueError."""
    if not archive.is_file():
        raise ValueError(f"there is no archive {archive}: check the path, or download it first")
    with archive.open("rb") as file:
        start = file.read(6)
    try:
        if start.startswith(_ZIP):
            with ZipFile(archive) as zipped:
                yield _zip_entries(zipped)
        else:
            with tarfile.open(archive) as tar:
                yield _tar_entries(tar)
    except _CORRUPT as error:
        if isinstance(error, OSError) and error.errno not in (
            None,
            errno.EINVAL,
        ):  # data are bad, or a place in the file
            raise
        begun = start.startswith((_ZIP, *_PACKED)) or tarfile.is_tarfile(archive)
        reason = str(error).partition("\n")[0]
        what = f"is truncated or corrupt ({reason})" if begun else "is not a zip or tar archive"
        raise ValueError(f"{archive} {what}: download it again") from error


def _zip_entries(file: ZipFile) -> Iterator[_Entry]:
    for info in file.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        plain = kind in (0, stat.S_IFREG, stat.S_IFDIR) and not info.flag_bits & 1  # the flag of encryption
        yield _Entry(info.filename, info.file_size, info.is_dir(), plain, partial(file.open, info))


def _tar_entries(file: tarfile.TarFile) -> Iterator[_Entry]:
    for info in file:
        path = info.name.removeprefix("./")  # `tar c .` writes it
        plain = info.isdir() or (info.isreg() and not info.issparse())
        if path != ".":
            yield _Entry(path, info.size, info.isdir(), plain, partial(file.extractfile, info))


def _members(archive: Path, entries: Iterable[_Entry], top: str) -> tuple[dict[str, _Entry], set[str]]:
    """The archive's files below the folder `top`, by their path below it, and the names of all top folders.

    Every entry was found harmless.
    """
    members: dict[str, _Entry] = {}
    tops: set[str] = set()
    count = size = 0
    for entry in entries:
        count, size = count + 1, size + entry.size
        if count > _MAX_FILES or size > _MAX_BYTES:
            raise ValueError(
                f"{archive} would unpack to {count:,} files and {size:,} bytes or more, beyond the {_MAX_FILES:,} "
                f"files and {_MAX_BYTES:,} bytes allowed: is it the right archive?"
            )
        _check_harmless(archive, entry)
        if "/" in entry.path:
            tops.add(entry.path.partition("/")[0])
        path = entry.path.removeprefix(f"{top}/")
        if path == entry.path or entry.folder:
            continue
        if path in members:
            raise ValueError(f"{archive} holds two files of one name: do not use this archive")
        members[path] = entry
    return members, tops


def _check_harmless(archive: Path, entry: _Entry) -> None:
    """An entry is a plain file or folder, and its path is relative, spelt plainly and never leads upwards."""
    parts = entry.path.removesuffix("/").split("/")
    if not entry.plain or {"", ".", ".."} & set(parts) or "\\" in entry.path or ":" in entry.path:
        raise ValueError(
            f"{archive} holds {entry.path!r}, which is a link, a device, encrypted or outside "
            "of its folder: do not use this archive"
        )


def _check_holds(archive: Path, members: Iterable[str], top: str, holds: Iterable[str], tops: set[str]) -> None:
    there = {"/".join(parts[:n]) for path in members for parts in [path.split("/")] for n in range(1, len(parts) + 1)}
    missing = [f"{top}/{name}" for name in holds if name not in there] + ([] if there else [top])
    if missing:
        what = f" but {', '.join(sorted(tops)[:3])}" if tops - {top} else ""
        raise ValueError(f"{archive} holds no {missing[0]}{what}: this is not the archive of {top}")


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Keep other processes out while a file or folder is made, by a hidden file beside it.

    After a success the hidden file is deleted: every later process finds the target. After a failure it stays.
    Otherwise a waiting process and a new one would lock two different files.
    """
    lock = target.with_name(f".{target.name}.lock")
    with FileLock(lock):
        yield
    with suppress(OSError):  # on Windows, a process that waits keeps it
        lock.unlink()


def _flush_all(folder: Path) -> None:
    """Write all files of a folder to the disk; Windows can do so only one by one, which takes longer."""
    if hasattr(os, "sync"):
        os.sync()
    else:
        for path in folder.rglob("*"):
            if path.is_file():
                flush(path)


def _extract(archive: Path, members: dict[str, _Entry], progress: bool, folder: Path) -> None:
    """Write all members into a folder."""
    try:
        for path, entry in tqdm(members.items(), desc=f"unpack {archive.name}", unit="file", disable=not progress):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            with entry.open() as source, (folder / path).open("xb") as sink:
                shutil.copyfileobj(source, sink)
    except _CLASH as error:
        raise ValueError(f"{archive} holds a file and a folder of one name: do not use this archive") from error
