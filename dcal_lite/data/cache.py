"""Decoded images in a file: written once, checked at every opening, mapped into memory.

A file is a plain .npy array, uint8 (n, 3, H, W), that ends in four more bytes: the CRC-32 of the pixels, which NumPy
does not read. Its name says what decides the pixels, so a file of another state is never taken:
FOLDER-HxW-IMAGES-STATE.npy, where IMAGES is a digest of which images in which order, and STATE one of the files' sizes
and dates and of the decoder. A new file of the same images and size replaces the one of an older state; others stay
until somebody removes them, which is safe at any time.
"""

import io
import os
import warnings
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from hashlib import blake2b
from math import prod
from pathlib import Path

import numpy as np
import PIL
from jaxtyping import UInt8

from dcal_lite.checkpoint import atomic_path
from dcal_lite.data.archives import locked

_VERSION = 1  # to be raised when `read_image` or `resize` in records.py return other pixels than before


def cache_path(folder: str | Path, root: Path, sources: Iterable[str], size: tuple[int, int], banner: int = 0) -> Path:
    """Where the decoded images of these files are kept.

    Args:
        folder: of the cache.
        root, sources: the images' common folder, and their paths below it, in order.
        size: height and width in pixels.
        banner: rows cut off at the bottom of each image.
    """
    root, sources = root.resolve(), list(sources)
    state = [_VERSION, PIL.__version__, banner, *(_stamp(root / source) for source in sources)]
    height, width = size
    name = f"{root.name}-{height}x{width}-{_digest([str(root), *sources])}-{_digest(state)}.npy"
    return Path(folder).expanduser() / name


def cached(
    path: Path, shape: tuple[int, ...], images: Callable[[], Iterable[np.ndarray]]
) -> UInt8[np.ndarray, "n 3 H W"]:
    """The images kept in a file, which is written first if it is not there or damaged.

    Of processes that start together one writes, and the others wait for it.

    Args:
        path: from `cache_path`.
        shape: of the array, (n, 3, H, W).
        images: called if they must be written; gives every image, uint8 (3, H, W), in order.

    Returns:
        The array, mapped into memory. What is written into it stays in this process (copy on write).

    Raises:
        OSError: the file cannot be written: no space, no permission, a faulty disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    array = _open(path, shape)
    if array is None:
        with locked(path):
            array = _open(path, shape)  # another process may have been faster
            if array is None:
                _remove_superseded(path)
                _write(path, shape, images())
                array = _open(path, shape)
    if array is None:
        raise OSError(f"{path.name} does not hold what was written to it")
    return array


def _digest(content: object) -> str:
    return blake2b(repr(content).encode(), digest_size=6).hexdigest()


def _stamp(path: Path) -> tuple[int, int] | None:
    """Size and date of a file; None where there is none, which decoding will say better."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _header(shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def _open(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The array in the file; None where there is no file or, with a warning, where it is damaged."""
    if not path.exists():
        return None
    header, size = _header(shape), prod(shape)
    if path.stat().st_size == len(header) + size + 4:
        content = np.memmap(path, np.uint8, mode="c")
        pixels, end = content[len(header) : -4], content[-4:]
        if content[: len(header)].tobytes() == header and zlib.crc32(pixels) == int.from_bytes(end.tobytes(), "little"):
            return pixels.reshape(shape)
    warnings.warn(f"the cache file {path.name} is damaged: the images are decoded again", stacklevel=2)
    return None


def _write(path: Path, shape: tuple[int, ...], images: Iterable[np.ndarray]) -> None:
    header, size = _header(shape), prod(shape)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        if hasattr(os, "posix_fallocate"):  # not on macOS
            os.posix_fallocate(file.fileno(), 0, len(header) + size + 4)  # a full disk shows before the work
        file.write(header)
        checksum = 0
        for image in images:
            file.write(image)
            checksum = zlib.crc32(image, checksum)
        file.write(checksum.to_bytes(4, "little"))


def _remove_superseded(path: Path) -> None:
    """Delete files of the same images in another state, and what killed processes left of them; `path` is locked."""
    same = path.name.rpartition("-")[0]
    for old in path.parent.iterdir():
        if old.name.startswith(f"{same}-") or (old.name.startswith(f".{same}-") and old.suffix == ".tmp"):
            with suppress(PermissionError):  # on Windows, another run has it open: a later run will delete it
                old.unlink()
