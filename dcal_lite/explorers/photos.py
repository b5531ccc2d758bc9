"""The reader's own photos: files as a model takes them, and a button that brings them into an explorer."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps
from torch import Tensor

from dcal_lite.data.records import BROKEN, decode
from dcal_lite.data.transforms import prepare
from dcal_lite.explorers.figure import Explorer


def read_photos(
    *files: str | Path | bytes, size: tuple[int, int], mean: Sequence[float], std: Sequence[float]
) -> tuple[Float[Tensor, "n 3 H W"], UInt8[Tensor, "n 3 H W"]]:
    """Read photos as an explorer takes them: turned upright, RGB, the largest window of the model's shape, resized.

    Args:
        files: paths, or the contents of files; on Colab, `*google.colab.files.upload()`.
        size: height and width of the model in pixels.
        mean, std: of the pixel values in [0, 1], with which the model was trained: a recipe's, or those of a timm
            model's `pretrained_cfg`.

    Returns:
        The normalised images, and the same to look at.

    Raises:
        ValueError: no photo, or a file that holds no image.
    """
    if not files:
        raise ValueError("at least one photo expected: give the path of an image file")
    pictures = torch.stack([_window(file, size) for file in files])
    return prepare(pictures, size, mean=mean, std=std), pictures


def _window(file: str | Path | bytes, size: tuple[int, int]) -> UInt8[Tensor, "3 H W"]:
    name, source = ("this file", io.BytesIO(file)) if isinstance(file, bytes) else (str(file), file)
    try:
        photo = Image.fromarray(decode(source))
    except BROKEN as error:
        reason = str(error).partition("\n")[0].partition(" <")[0]
        raise ValueError(f"cannot read {name} as an image ({reason}): give a whole JPEG or PNG file") from None
    window = ImageOps.fit(photo, size[::-1], Image.Resampling.BILINEAR)  # antialiases when it shrinks
    return torch.from_numpy(np.array(window)).permute(2, 0, 1)


def upload(
    explore: Callable[[Tensor, Tensor], Explorer],
    pictures: UInt8[Tensor, "n 3 H W"],
    *,
    mean: Sequence[float],
    std: Sequence[float],
) -> Explorer:
    """An explorer that, in a running notebook, has a button for the reader's own photo.

    Args:
        explore: makes an explorer of normalised images and the same to look at: `partial(dl.explorers.rollout, model)`.
        pictures: what it shows first, of the model's size.
        mean, std: of the pixel values in [0, 1], with which the model was trained.
    """
    look = {"size": tuple(pictures.shape[2:]), "mean": mean, "std": std}
    explorer = explore(prepare(pictures, **look), pictures)
    explorer.read = lambda photo: explore(*read_photos(photo, **look)).data
    return explorer
