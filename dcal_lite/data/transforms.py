"""Augmentation and preparation of whole batches, on the device where the images are.

One CPU generator decides everything. The choices (crops, flips, boxes) are drawn on the CPU, so they are the same on
every device; the noise of erased boxes is drawn on the images' device, from seeds that this generator gives.
"""

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float, Int64, UInt8
from torch import Generator, Tensor
from torch.nn.functional import pad as pad_borders
from torchvision.transforms.v2.functional import resize

_AREA = (0.02, 1 / 3)  # of an erased box, as a share of the image
_ENLARGED = 9 / 8  # for the translation of open-reid
_ASPECT = (0.3, 1 / 0.3)  # its height over its width
_ATTEMPTS = 10  # boxes tried for each image; the first that fits is taken


def augment(
    images: UInt8[Tensor, "B 3 H W"],
    size: tuple[int, int],
    generator: Generator,
    *,
    flip: float = 0.5,
    pad: int = 10,
    enlarge: float = 0.0,
    erase: float = 0.5,
    erase_noise: bool = True,
    mean: Sequence[float] = (0.5, 0.5, 0.5),
    std: Sequence[float] = (0.5, 0.5, 0.5),
    part: slice = slice(None),
    batch_size: int | None = None,
) -> Float[Tensor, "B 3 h w"]:
    """Enlarge or pad, crop at random, flip, normalise and erase random boxes; each image differently.

    Args:
        images: decoded images.
        size: height and width of the crops in pixels.
        generator: on the CPU; the same seed gives the same result.
        flip: probability of a horizontal flip.
        pad: width of the black border that is added before cropping, in pixels.
        enlarge: probability that an image is enlarged by 1/8 in height and width before cropping (then without `pad`,
            and the images are of `size`).
        erase: probability that a box is filled.
        erase_noise: fill it with Gaussian noise, or with 0, the mean.
        mean, std: of the pixel values in [0, 1], a number a channel.
        part, batch_size: the images are this part of a batch of so many, whose other images are augmented elsewhere.

    Raises:
        ValueError: the padded images are smaller than `size`, or both `pad` and `enlarge` are asked for.

    Source:
        TransReID (He et al. 2021): pad, crop, flip. open-reid's Random2DTranslation, in RGA's code: enlarge. Zhong et
        al., "Random Erasing Data Augmentation", AAAI 2020, as in timm (`mode="pixel"`: 2 % to 1/3 of the area, aspect
        0.3 to 3.3, one box).
    """
    if pad and enlarge:
        raise ValueError(f"pad=0 or enlarge=0 expected, got {pad} and {enlarge}: both move the crop")
    larger = pad_borders(images, (pad, pad, pad, pad))
    if enlarge:
        larger = resize(images, [round(n * _ENLARGED) for n in images.shape[2:]])
    batch, room = batch_size or len(images), _room(larger, size)
    chance = torch.rand(batch, 2, generator=generator, dtype=torch.float64)
    corner = (chance * (torch.tensor(room) + 1)).long()
    flipped = torch.rand(batch, 1, generator=generator) < flip
    boxes = _boxes(batch, size, erase, generator)
    seeds = torch.randint(2**62, (batch,), generator=generator)
    enlarged = torch.rand(batch, 1, generator=generator) < enlarge

    choices = torch.cat([corner, flipped, enlarged], dim=1)[part].to(images.device, non_blocking=True)
    top, left, flipped, enlarged = choices.unbind(1)
    windows = larger.unfold(2, size[0], 1).unfold(3, size[1], 1)  # a view (B, 3, tops, lefts, h, w)
    crops = windows[torch.arange(len(images), device=images.device), :, top, left]
    if enlarge:
        crops = _choose(enlarged, crops, images)
    crops = _choose(flipped, crops.flip(3), crops)
    return _erase(_normalise(crops, mean, std), boxes[part], seeds[part] if erase_noise else None)


def prepare(
    images: UInt8[Tensor, "B 3 H W"], size: tuple[int, int], *, mean: Sequence[float], std: Sequence[float]
) -> Float[Tensor, "B 3 h w"]:
    """Crop the centre and normalise, for evaluation.

    Args:
        images: decoded images, at least of `size`.
        size: height and width in pixels.
        mean, std: of the pixel values in [0, 1], a number a channel.

    Raises:
        ValueError: the images are smaller than `size`.
    """
    top, left = (room // 2 for room in _room(images, size))
    return _normalise(images[:, :, top : top + size[0], left : left + size[1]], mean, std)


def _room(images: Tensor, size: tuple[int, int]) -> tuple[int, int]:
    """How far a window of `size` can move in the images, down and right."""
    height, width = images.shape[2:]
    if height < size[0] or width < size[1]:
        raise ValueError(f"cannot crop {size[0]} x {size[1]} pixels from {height} x {width}: decode the images larger")
    return height - size[0], width - size[1]


def _choose(first: Tensor, images: Tensor, others: Tensor) -> Tensor:
    """Images where `first` (B) is true, else others; whole ones are copied, faster than `where` pixel by pixel."""
    place = torch.arange(len(images), device=images.device)
    return torch.cat([others, images]).index_select(0, place + len(images) * first)


def _normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    mean, std = (rearrange(torch.tensor(x, device=images.device), "c -> c 1 1") for x in (mean, std))
    return images.float().div_(255).sub_(mean).div_(std)  # in place: a CPU spends its time on memory here


def _boxes(batch: int, size: tuple[int, int], erase: float, generator: Generator) -> Int64[Tensor, "B 4"]:
    """Top, bottom, left and right of each image's box; an empty one where nothing is to be erased."""
    draw = torch.rand(batch, _ATTEMPTS, 4, generator=generator, dtype=torch.float64)
    area = size[0] * size[1] * (_AREA[0] + draw[..., 0] * (_AREA[1] - _AREA[0]))
    low, high = (math.log(x) for x in _ASPECT)
    aspect = torch.exp(low + draw[..., 1] * (high - low))
    height, width = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (height < size[0]) & (width < size[1])
    top, left = (draw[..., 2] * (size[0] - height + 1)).floor(), (draw[..., 3] * (size[1] - width + 1)).floor()
    wanted = torch.rand(batch, 1, generator=generator) < erase
    boxes = torch.stack([top, top + height, left, left + width], dim=-1)
    first = fits.int().argmax(dim=1)
    return (boxes[torch.arange(batch), first] * (wanted & fits.any(dim=1, keepdim=True))).long()


def _erase(images: Tensor, boxes: Int64[Tensor, "B 4"], seeds: Int64[Tensor, "B"] | None) -> Tensor:
    """Fill the boxes with Gaussian noise, or with 0 where there are no seeds for it; changes `images`."""
    noise = Generator(images.device)
    for i, (top, bottom, left, right) in enumerate(boxes.tolist()):
        box = images[i, :, top:bottom, left:right]  # noise for this part only: a sixth of the image on average
        if seeds is None:
            box.zero_()
        elif top < bottom:
            box.normal_(generator=noise.manual_seed(seeds[i].item()))
    return images
