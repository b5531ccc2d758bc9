"""Does a map point at the parts that matter? Three scores of a map against the true mask, and two of how it spreads.

Letters: n images, H x W pixels. A map is what a method says about each pixel, not negative, the more the higher. All
maps are brought to the image's size by `to_pixels` first, so that methods with coarse and fine grids are treated alike.

What blind maps score is given with each function: compare with that, not with 0.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def to_pixels(maps: Float[Tensor, "n h w"], size: tuple[int, int]) -> Float[Tensor, "n H W"]:
    """Enlarge maps of patches or positions to `size` = (height, width) in pixels, bilinearly."""
    return F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def pointing_game(maps: Float[Tensor, "n H W"], masks: Bool[Tensor, "n H W"]) -> Float[Tensor, "n"]:
    """Return 1 where the map's highest pixel lies in the mask, else 0; of equally high ones the mean.

    A map that is the same everywhere, or random, scores the mask's share of the area.

    Raises:
        ValueError: a mask is empty, or a map is negative or not finite.

    Source: Zhang et al. 2016, "Top-down Neural Attention by Excitation Backprop", without their tolerance of 15 pixels.
    """
    maps, masks = _checked(maps, masks)
    highest = maps == maps.amax(dim=1, keepdim=True)
    return (highest & masks).sum(dim=1) / highest.sum(dim=1)


def energy_inside(maps: Float[Tensor, "n H W"], masks: Bool[Tensor, "n H W"]) -> Float[Tensor, "n"]:
    """Return the share of the map's sum that lies in the mask, in [0, 1]; a uniform map scores the mask's area.

    Raises:
        ValueError: a mask is empty, or a map is negative, not finite or 0 everywhere.

    Source: Wang et al. 2020, "Score-CAM", section 4.3 (energy-based pointing game), with masks for boxes.
    """
    maps, masks = _checked(maps, masks)
    total = maps.sum(dim=1)
    if (total == 0).any():
        raise ValueError("a map that is 0 everywhere points nowhere; leave its image out")
    return (maps * masks).sum(dim=1) / total


def iou_at_area(maps: Float[Tensor, "n H W"], masks: Bool[Tensor, "n H W"]) -> Float[Tensor, "n"]:
    """Return the overlap with the mask, in [0, 1], of as many of the map's highest pixels as the mask has.

    Intersection over union. No threshold has to be chosen. Of equally high pixels as many are hit as on average over
    all choices, so that plateaus are not favoured. A uniform map scores a / (2 - a) for a mask with a share a of the
    area.

    Raises:
        ValueError: a mask is empty, or a map is negative or not finite.
    """
    maps, masks = _checked(maps, masks)
    area = masks.sum(dim=1, keepdim=True)
    lowest = maps.sort(dim=1, descending=True).values.gather(1, area - 1)  # of the chosen pixels
    above, level = maps > lowest, maps == lowest
    share = (area - above.sum(dim=1, keepdim=True)) / level.sum(dim=1, keepdim=True)
    hits = (masks * (above + share * level)).sum(dim=1)
    return hits / (2 * area[:, 0] - hits)


def spread(maps: Float[Tensor, "n H W"]) -> Float[Tensor, "n"]:
    """Return how evenly a map is spread, in (0, 1]: its entropy over that of a uniform map.

    Raises:
        ValueError: a map is negative, not finite or 0 everywhere.
    """
    maps, _ = _checked(maps, torch.ones_like(maps, dtype=torch.bool))
    share = maps / maps.sum(dim=1, keepdim=True)
    if not share.isfinite().all():
        raise ValueError("a map that is 0 everywhere points nowhere; leave its image out")
    return torch.special.entr(share).sum(dim=1) / torch.tensor(float(maps.shape[1])).log()


def parts_covered(
    maps: Float[Tensor, "n H W"], parts: Bool[Tensor, "n P H W"], *, area: float = 0.2
) -> Float[Tensor, "n"]:
    """Return the share of the visible parts that the map's highest pixels touch, in [0, 1].

    Args:
        maps: as above.
        parts: masks of P parts; an empty one is not visible and not counted.
        area: share of the image's pixels that count as highest, in (0, 1].

    Raises:
        ValueError: an image without a visible part, `area` out of range, or a map that is negative or not finite.
    """
    if not 0 < area <= 1:
        raise ValueError(f"an area in (0, 1] expected, got {area}")
    maps, _ = _checked(maps, parts.any(dim=1))
    count = max(1, round(area * maps.shape[1]))
    best = maps.argsort(dim=1, descending=True, stable=True)[:, :count]
    touched = parts.flatten(2).gather(2, best[:, None].expand(-1, parts.shape[1], -1)).any(dim=2)
    return touched.sum(dim=1) / parts.flatten(2).any(dim=2).sum(dim=1)


def _checked(maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Maps in float64 and masks, both (n, pixels)."""
    if maps.shape != masks.shape:
        raise ValueError(f"maps and masks of one shape expected, got {tuple(maps.shape)} and {tuple(masks.shape)}; "
                         "use to_pixels")  # fmt: skip
    maps, masks = maps.flatten(1).double(), masks.flatten(1)
    if not maps.isfinite().all() or (maps < 0).any():
        raise ValueError("maps that are finite and not negative expected")
    if not masks.any(dim=1).all():
        raise ValueError("masks that show something expected; leave out the images whose parts are hidden")
    return maps, masks
