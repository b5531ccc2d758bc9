"""Records, splits and datasets: what every reader returns and everything else consumes.

A `Record` says what an image is, a `Split` can also read it, a `Dataset` holds the named splits.
"""

import io
import os
import struct
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from PIL import Image, ImageOps
from tqdm.auto import tqdm

from dcal_lite.data.cache import cache_path, cached

_BLOCK = 256  # images that wait in memory, decoded, while a slow disk takes those before
# What Pillow raises at a file that it cannot decode.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


@dataclass(frozen=True)
class Record:
    """One image: where it is, whom or what it shows, which camera took it.

    Args:
        source: path relative to the dataset's root, or the name of a drawn image ("plumage/17").
        label: class or identity; -1 marks junk (re-ID).
        camera: camera number; 0 where cameras play no role.
        clothes: number of the outfit among those of this identity; -1 where clothes play no role.
        track: number of the track, the images that a camera took of something in passing; -1 where tracks play no role.
    """

    source: str
    label: int
    camera: int = 0
    clothes: int = -1
    track: int = -1


@dataclass(frozen=True)
class Split:
    """Records and the function that reads their images.

    Args:
        records: what the split holds, in a fixed order.
        read: returns the image of a record, uint8 (H, W, 3), RGB; this is how images are read one by one, when needed.
        threads: how many at once; None: as many as the machine likes, which suits files. Drawing wants one.
    """

    records: tuple[Record, ...]
    read: Callable[[Record], np.ndarray]
    threads: int | None = None

    def __len__(self) -> int:
        return len(self.records)

    @cached_property
    def labels(self) -> Int64[np.ndarray, "n"]:
        """Label of every record."""
        return np.array([record.label for record in self.records], dtype=np.int64)

    @cached_property
    def cameras(self) -> Int64[np.ndarray, "n"]:
        """Camera of every record."""
        return np.array([record.camera for record in self.records], dtype=np.int64)

    @cached_property
    def clothes(self) -> Int64[np.ndarray, "n"]:
        """Outfit of every record."""
        return np.array([record.clothes for record in self.records], dtype=np.int64)

    @cached_property
    def tracks(self) -> Int64[np.ndarray, "n"]:
        """Track of every record."""
        return np.array([record.track for record in self.records], dtype=np.int64)

    @cached_property
    def classes(self) -> Int64[np.ndarray, "C"]:
        """The different labels, ascending."""
        return np.unique(self.labels)

    @cached_property
    def targets(self) -> Int64[np.ndarray, "n"]:
        """Labels as indices into `classes`, 0..C-1."""
        return np.searchsorted(self.classes, self.labels)

    def subset(self, indices: Iterable[int] | np.ndarray) -> "Split":
        """The split of the records at `indices`, in that order."""
        return replace(self, records=tuple(self.records[i] for i in indices))

    def image(self, index: int, size: tuple[int, int]) -> UInt8[torch.Tensor, "3 H W"]:
        """Decode one image, resized as in `images`."""
        return torch.from_numpy(self._decoded(self.records[index], size))

    def images(
        self, size: tuple[int, int], *, cache: str | Path | None = None, progress: bool = False
    ) -> UInt8[torch.Tensor, "n 3 H W"]:
        """Decode every image once, in threads; antialiased bilinear resizing where the size differs.

        With a cache folder, images that are files are decoded once for all runs: the result is kept in the folder (see
        cache.py) and mapped into memory, until a file, the records or the size change. Drawn images are not kept.

        Args:
            size: height and width in pixels.
            cache: the folder; None takes the environment variable DCAL_CACHE, else keeps nothing on the disk.
            progress: show a progress bar.

        Returns:
            The images in the order of the records. What is written into them stays in this process.

        Raises:
            ValueError: `size` is not positive, or a file cannot be decoded.
        """
        if min(size) < 1:
            raise ValueError(f"size must be two positive numbers (height, width), got {size}")
        shape, cache = (len(self), 3, *size), cache or os.environ.get("DCAL_CACHE")
        if cache and isinstance(self.read, Files):
            path = cache_path(cache, self.read.root, (record.source for record in self.records), size, self.read.banner)
            try:
                return torch.from_numpy(cached(path, shape, partial(self._decode, size, progress)))
            except OSError as error:
                warnings.warn(
                    f"cannot use the cache {cache} ({error.strerror or error}): images stay in memory", stacklevel=2
                )
        images = np.empty(shape, dtype=np.uint8)
        for i, image in enumerate(self._decode(size, progress)):
            images[i] = image
        return torch.from_numpy(images)

    def _decoded(self, record: Record, size: tuple[int, int]) -> UInt8[np.ndarray, "3 H W"]:
        return np.ascontiguousarray(_resize(self.read(record), size).transpose(2, 0, 1))

    def _decode(self, size: tuple[int, int], progress: bool) -> Iterator[UInt8[np.ndarray, "3 H W"]]:
        with (
            ThreadPoolExecutor(self.threads) as pool,
            tqdm(total=len(self), desc="decode", unit="image", disable=not progress) as bar,
        ):
            for start in range(0, len(self), _BLOCK):
                for image in pool.map(partial(self._decoded, size=size), self.records[start : start + _BLOCK]):
                    yield image
                    bar.update()


@dataclass(frozen=True)
class Dataset:
    """Named splits of one task.

    Args:
        name: the name `load_dataset` knows.
        task: "reid" (splits train, query, gallery) or "fgvc" (splits train, test).
        splits: split by name.
    """

    name: str
    task: str
    splits: dict[str, Split]

    def __getitem__(self, split: str) -> Split:
        if split not in self.splits:
            raise ValueError(f"{self.name} has the splits {', '.join(self.splits)}, not {split!r}")
        return self.splits[split]


def read_image(path: str | Path) -> UInt8[np.ndarray, "H W 3"]:
    """Decode an image file to RGB, upright.

    Args:
        path: any format and mode that Pillow reads (grayscale, palette, CMYK, EXIF orientation).

    Raises:
        ValueError: the file is missing, empty, truncated or no image.
    """
    try:
        return decode(path)
    except BROKEN as error:
        raise ValueError(
            f"cannot read the image {path} ({_reason(Path(path), error)}): replace the file, "
            "or remove the dataset's folder and unpack its archive again"
        ) from error


def decode(file: str | Path | io.BytesIO) -> UInt8[np.ndarray, "H W 3"]:
    """Decode an image to RGB, upright; what Pillow raises is one of `BROKEN`."""
    with Image.open(file) as image:
        image = ImageOps.exif_transpose(image)
        if image.mode == "P":  # a palette may carry transparency, which only RGBA can hold
            image = image.convert("RGBA")
        return np.asarray(image.convert("RGB"))


@dataclass(frozen=True)
class Files:
    """The `read` function of splits whose images are files.

    Args:
        root: folder that the records' sources are below.
        banner: rows that are cut off at the bottom.
    """

    root: Path
    banner: int = 0

    def __call__(self, record: Record) -> UInt8[np.ndarray, "H W 3"]:
        image = read_image(self.root / record.source)
        return image[: len(image) - self.banner]


def _reason(path: Path, error: Exception) -> str:
    """Why an image cannot be read, in one line."""
    if path.is_dir():
        return "it is a directory"
    if not path.exists():
        return "there is no such file"
    if path.stat().st_size == 0:
        return "it is empty"
    return str(error).partition("\n")[0].replace(f" {str(path)!r}", " the file")


def _resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (H, W, 3) to `size`; PIL's bilinear filter antialiases when it shrinks."""
    height, width = size
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
