"""Where does a model look? One map over the image for each mechanism of attention, all of one form.

Letters: n images, h x w positions of a map: patches, positions of a feature map, or pixels.

| model       | map            | what it says about a place                                                          |
|-------------|----------------|-------------------------------------------------------------------------------------|
| `DCAL`      | "rollout"      | share in SA's last class token, traced through all layers (Abnar & Zuidema 2020)    |
|             | "selection"    | 1 where rollout is among the R highest: GLCA's local queries                        |
|             | "glca"         | weight with which GLCA's class token reads it, heads averaged                       |
| `ResNetRGA` | "gate 1" to 4  | weight from RGA-S after each stage                                                  |
| `HACNN`     | "soft 1" to 3  | soft attention of each level, channels averaged                                     |
|             | "regions 1" .. | number of hard attention's regions that lie over it                                 |

These are the quantities that the models compute with. What a model depends on is another question, which
`occlusion_map` asks of any model. Score maps by `dcal_lite.localisation`, after `to_pixels`.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dcal_lite.attention import attention_map, split_heads
from dcal_lite.attention_rollout import cls_rollout
from dcal_lite.backbones import attention_maps, embed, evaluating, outputs_of
from dcal_lite.dcal import DCAL, top_patches
from dcal_lite.hacnn import HACNN, HarmoniousAttention
from dcal_lite.rga import RelationGate, ResNetRGA

Maps = dict[str, Float[Tensor, "n h w"]]


@torch.no_grad()
def saliency_maps(model: nn.Module, images: Float[Tensor, "n 3 h w"]) -> dict[str, Tensor]:
    """Return a model's maps by name, none of them negative, in evaluation mode.

    Args:
        model: a `DCAL`, `ResNetRGA` or `HACNN`, trained or not; it returns to its mode.
        images: normalised images of the model's size.

    Raises:
        ValueError: another model, or a ResNet without gates over positions.
    """
    kinds = {DCAL: _of_dcal, ResNetRGA: _of_rga, HACNN: _of_hacnn}
    if type(model) not in kinds:
        raise ValueError(f"a DCAL, ResNetRGA or HACNN expected, got {type(model).__name__}")
    return kinds[type(model)](model, images)


@torch.no_grad()
def occlusion_map(
    model: nn.Module,
    images: Float[Tensor, "n 3 H W"],
    *,
    cell: int = 8,
) -> Float[Tensor, "n h w"]:
    """Return how far an image's embedding moves when a square of it is covered.

    Args:
        model: any model of this library; it is put into evaluation mode, and back.
        images: normalised images of the model's size; 0, the mean, is what covers.
        cell: side of the square in pixels; it divides height and width.

    Returns:
        Euclidean distances, one a square: h = H / cell, w = W / cell.

    Raises:
        ValueError: `cell` does not divide the image.

    Source: Zeiler & Fergus 2014, "Visualizing and Understanding Convolutional Networks", section
        4.2, with distances of embeddings for probabilities of a class.
    """
    if any(side % cell for side in images.shape[2:]):
        raise ValueError(f"a cell that divides {tuple(images.shape[2:])} expected, got {cell}")
    h, w = (side // cell for side in images.shape[2:])
    places, rows = torch.eye(h * w, dtype=torch.bool, device=images.device).view(-1, h, w), []
    with evaluating(model):
        whole = model(images).embedding
        for place in places:
            square = place.repeat_interleave(cell, dim=0).repeat_interleave(cell, dim=1)
            rows.append((model(images.masked_fill(square, 0)).embedding - whole).norm(dim=1))
    return torch.stack(rows, dim=1).view(-1, h, w)


def _of_dcal(model: DCAL, images: Tensor) -> Maps:
    row = cls_rollout(attention_maps(model, images))
    maps = {"rollout": row[:, 1:]}
    if "glca" in model.branches:
        chosen = top_patches(row, model.ratio)
        maps["selection"] = torch.zeros_like(row).scatter(1, chosen, 1)[:, 1:]
        maps["glca"] = _glca_row(model, images)[:, 1:]
    grid = model.backbone.patch_embed.grid_size
    return {name: rows.unflatten(1, grid) for name, rows in maps.items()}


def _glca_row(model: DCAL, images: Tensor) -> Float[Tensor, "n N"]:
    """How GLCA's class token reads the tokens in its first block: first row of Eq. 3's map."""
    blocks, first = model.backbone.blocks, model.glca.blocks[0]
    with evaluating(model):
        tokens = embed(model.backbone, images)
        for block in blocks if model.glca_at == "after" else blocks[:-1]:
            tokens = block(tokens)
    query, key, _ = first.attn.qkv(first.norm1(tokens)).chunk(3, dim=-1)
    query, key = (split_heads(x, first.attn.num_heads) for x in (query[:, :1], key))
    return attention_map(first.attn.q_norm(query), first.attn.k_norm(key)).mean(dim=1)[:, 0]


def _of_rga(model: ResNetRGA, images: Tensor) -> Maps:
    weights = iter(outputs_of(model, RelationGate, images))
    kept = {}
    for stage, attention in enumerate(model.attention, start=1):
        by_kind = {kind: next(weights) for kind in attention.gates}
        if "s" not in by_kind:
            raise ValueError("gates over positions expected: variant 's', 'sc', 'cs' or 's//c', not 'c'")
        kept[f"gate {stage}"] = by_kind["s"][:, 0].unflatten(1, attention.size)
    return kept


def _of_hacnn(model: HACNN, images: Tensor) -> Maps:
    maps = {}
    for level, (weights, centres) in enumerate(outputs_of(model, HarmoniousAttention, images), start=1):
        maps[f"soft {level}"] = weights.mean(dim=1)
        if "local" in model.branches:
            maps[f"regions {level}"] = _cover(centres, model.img_size)
    return maps


def _cover(centres: Float[Tensor, "n T 2"], size: tuple[int, int]) -> Float[Tensor, "n h w"]:
    """How many of T regions, 1/T as high as the image and as wide, lie over the middle of each pixel."""
    y, x = ((2 * torch.arange(n, device=centres.device) + 1) / n - 1 for n in size)
    rows = (y - centres[..., 1:]).abs() < 1 / centres.shape[1]  # (n, T, h)
    columns = (x - centres[..., :1]).abs() < 1
    return torch.einsum("nth, ntw -> nhw", rows.float(), columns.float())
