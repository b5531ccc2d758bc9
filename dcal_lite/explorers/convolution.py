"""Explorers of the attentions in convolutional networks: RGA and HA-CNN."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dcal_lite import plot
from dcal_lite.backbones import evaluating, outputs_of, record_outputs
from dcal_lite.explorers.figure import Explorer, encode, encode_floats, to_png
from dcal_lite.hacnn import HACNN, HarmoniousAttention, crop_regions
from dcal_lite.rga import ResNetRGA


def rga(
    model: ResNetRGA, images: Float[Tensor, "n 3 h w"], pictures: Sequence[Any] | Tensor, *, stage: int = 2
) -> Explorer:
    """Relations of one position, its gate, and its relations embedded by the affinity and without it.

    Args:
        model: one whose stages have spatial gates with relations.
        images: normalised images of the model's size.
        pictures: the same images to look at, uint8 arrays (H, W, 3) or tensors (3, H, W).
        stage: 1 to 4; its map should be small enough to touch.

    Raises:
        ValueError: the stage has no spatial gate, or one that reads no relations.

    Source: Zhang et al. 2020, section 3.2; without the affinity: `dcal_lite.rga`.
    """
    attention = model.attention[stage - 1]
    gate = attention.gates["s"] if "s" in getattr(attention, "gates", {}) else None
    if gate is None or not gate.relations:
        raise ValueError(f"stage {stage} has no spatial gate with relations: take a model with variant='s' or 'sc'")
    with torch.no_grad(), evaluating(model), record_outputs([gate, gate.project]) as outputs:
        model(images)
    weights, embedded = (dict(outputs)[part].cpu() for part in (gate, gate.project))
    theta, phi = embedded[:, : 2 * gate.inner, 0].chunk(2, dim=1)  # (n, c, N) each
    shown = [
        {"href": to_png(picture), "gate": encode_floats(a), "theta": encode_floats(t), "phi": encode_floats(p)}
        for picture, a, t, p in zip(pictures, weights, theta, phi, strict=True)
    ]
    still = plot.show_scores(pictures[0], weights[0, 0], attention.size, title=f"spatial gates of stage {stage}")
    weight = encode_floats(gate.relate.weight)
    data = {"stage": stage, "grid": list(attention.size), "weight": weight, "images": shown}
    return Explorer("rga", data, still.figure, "Gates of all positions, laid over the image: bright is high.")


def hacnn(
    model: HACNN,
    images: Float[Tensor, "n 3 h w"],
    pictures: Sequence[Any] | Tensor,
    path: Sequence[Float[Tensor, "L n T 2"]] = (),
) -> Explorer:
    """Regions to drag over an image, and what is cut out of it, as coarsely as the network does.

    Args:
        model: one with a local branch, in the paper's reading.
        images: normalised images of the model's size.
        pictures: the same images to look at, uint8 arrays (H, W, 3) or tensors (3, H, W).
        path: the regions' centres (x, y) in [-1, 1] on L levels at earlier moments of the training, to be played.

    Raises:
        ValueError: the model cuts out no regions on some level, or in the port's way.

    Source: Li et al. 2018, section 3.1; crops: `dcal_lite.hacnn.crop_regions`.
    """
    if "local" not in model.branches or not model.cail or model.port:
        raise ValueError("regions on every level expected: take a model with the branch 'local', cail=True, port=False")
    centres = torch.stack([centres for _, centres in outputs_of(model, HarmoniousAttention, images)]).cpu()
    moments = torch.stack([*(moment.cpu() for moment in path), centres])  # (M, L, n, T, 2)
    levels = [
        {"map": [n // 2 ** (level + 1) for n in model.img_size], "crop": list(crop)}
        for level, crop in enumerate(model.crops)
    ]
    shown = [
        {
            "href": to_png(picture),
            "maps": [encode(_shrink(picture, level["map"]).movedim(0, 2) / 255) for level in levels],
            "centres": encode_floats(moments[:, :, i]),
        }
        for i, picture in enumerate(pictures)
    ]
    data = {"size": list(model.img_size), "moments": len(moments), "regions": model.regions}
    first = torch.as_tensor(plot.as_array(pictures[0])).permute(2, 0, 1)
    size = (first.shape[1] // model.regions, first.shape[2])
    crops = crop_regions(first[None].float(), centres[0, :1], (1, 1 / model.regions), size)[0].round().byte()
    still = plot.show_images([*crops], [f"region {t + 1}" for t in range(model.regions)], width=6.0)
    alt = "The regions that the network cuts out of an image on its first level, side by side."
    return Explorer("hacnn", data | {"levels": levels, "images": shown}, still, alt)


def _shrink(picture: Any, size: Sequence[int]) -> Float[Tensor, "3 h w"]:
    """A picture with as few pixels as a feature map, in whole numbers from 0 to 255."""
    pixels = torch.as_tensor(plot.as_array(picture)).permute(2, 0, 1)[None].float()
    return F.interpolate(pixels, tuple(size), mode="bilinear", antialias=True)[0].round()
