"""Interactive figures: one ES module of ours each, which needs no kernel and no other script.

A module has a function `render({model, el})`, anywidget's convention. On a page, module and data stand inline in the
HTML. In a live notebook, where anywidget is installed, the same figure is a widget, and a new `data` redraws it; with
`upload` it takes the reader's own photo. What only a kernel can compute, `control` shows: a figure with ipywidgets.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dcal_lite import plot
from dcal_lite.attention import attention_map
from dcal_lite.attention_rollout import cls_rollout
from dcal_lite.backbones import attention_maps, embed, evaluating, record_queries_keys, run_block
from dcal_lite.dcal import DCAL, pair_view, top_patches, unpair_view
from dcal_lite.explorers.convolution import hacnn, rga
from dcal_lite.explorers.figure import Explorer, encode, to_png
from dcal_lite.explorers.lists import ranking
from dcal_lite.explorers.live import control
from dcal_lite.explorers.photos import read_photos, upload


def rollout(model: nn.Module, images: Float[Tensor, "n 3 H W"], pictures: Sequence[Any] | Tensor) -> Explorer:
    """Attention of one layer beside rollout, for any token, head and residual weight.

    Args:
        model: a `DCAL` or a vision transformer of timm's.
        images: normalised images of the model's size.
        pictures: the same images to look at, uint8 arrays (H, W, 3) or tensors (3, H, W).

    Source: Abnar & Zuidema 2020; Zhu et al. 2022, Eq. 2.
    """
    vit = model.backbone if isinstance(model, DCAL) else model
    maps = attention_maps(model, images).cpu()
    layers, _, heads = maps.shape[:3]
    grid = vit.patch_embed.grid_size
    shown = [{"href": to_png(picture), "maps": encode(maps[:, i])} for i, picture in enumerate(pictures)]
    still = plot.show_scores(pictures[0], cls_rollout(maps[:, :1])[0, 1:], grid, title="rollout of the class token")
    data = {"layers": layers, "heads": heads, "grid": list(grid), "images": shown}
    return Explorer("rollout", data, still.figure, "Rollout of the class token, laid over the image: bright is high.")


def flow(model: DCAL, image: Float[Tensor, "1 3 H W"], picture: Any) -> Explorer:
    """The class token's attention, its rollout and the patches that it selects, layer by layer, as a short film.

    Args:
        model: its ratio says how many patches are selected.
        image: normalised image of the model's size.
        picture: the same image to look at, uint8 array (H, W, 3) or tensor (3, H, W).

    Source: Zhu et al. 2022, Eq. 2 and section 3.2.
    """
    maps = attention_maps(model, image).cpu()
    single = maps.mean(dim=2)[:, 0, 0]
    rolled = torch.cat([cls_rollout(maps[: layer + 1]) for layer in range(len(maps))])
    grid = model.backbone.patch_embed.grid_size
    selected = top_patches(rolled[-1:], model.ratio)[0]
    figure, axes = plot.plt.subplots(1, 3, figsize=(4, 3.2), layout="constrained")
    plot.show_scores(picture, single[-1, 1:], grid, ax=axes[0], title="one layer")
    plot.show_scores(picture, rolled[-1, 1:], grid, ax=axes[1], title="rollout")
    plot.show_patches(picture, selected, grid, ax=axes[2], title="selected")
    data = {"layers": len(maps), "grid": list(grid), "count": len(selected), "href": to_png(picture)}
    data |= {"single": encode(single), "rolled": encode(rolled)}
    alt = "What the class token reads in the last layer, its rollout, and the patches that the rollout selects."
    return Explorer("flow", data, figure, alt)


@torch.no_grad()
def glca(model: DCAL, images: Float[Tensor, "n 3 H W"], pictures: Sequence[Any] | Tensor) -> Explorer:
    """GLCA at every R: which patches ask, what each of them reads, and the logits of both readouts.

    Args:
        model: with a GLCA branch and global keys; its ratio is where the slider starts. Every R is computed, so
            take one with few patches.
        images: normalised images of the model's size.
        pictures: the same images to look at, uint8 arrays (H, W, 3) or tensors (3, H, W).

    Raises:
        ValueError: no GLCA branch, or local keys: then what a token reads depends on R.

    Source: Zhu et al. 2022, Eq. 3.
    """
    if "glca" not in model.branches or model.glca.keys != "global":
        raise ValueError("a DCAL with the branch 'glca' and glca_keys='global' expected; choose another model")
    vit, head = model.backbone, model.heads["glca"]
    scores = cls_rollout(attention_maps(model, images))
    order = top_patches(scores, 1.0)
    with evaluating(model), record_queries_keys(model.glca) as record:
        tokens = embed(vit, images)
        for block in vit.blocks if model.glca_at == "after" else vit.blocks[:-1]:
            tokens = block(tokens)
        model.glca.blocks[0](tokens)  # all tokens ask, for the record: a selection is some of these rows
        local = [model.glca(tokens, order[:, :count]) for count in range(1, tokens.shape[1])]
        cls = torch.stack([head(x[:, 0]) for x in local], dim=1)  # (n, R, classes)
        pool = torch.stack([head(x.mean(dim=1)) for x in local], dim=1)
    maps = attention_map(*record[0]).mean(dim=1).cpu()
    shown = []
    for i, picture in enumerate(pictures):
        classes = cls[i, 0].topk(min(5, cls.shape[-1])).indices
        tables = {"cls": cls[i, :, classes], "pool": pool[i, :, classes]}
        tables = {readout: table.double().round(decimals=3).tolist() for readout, table in tables.items()}
        image = {"href": to_png(picture), "map": encode(maps[i]), "order": order[i].tolist()}
        shown.append(image | {"classes": classes.tolist()} | tables)
    grid = vit.patch_embed.grid_size
    selected = top_patches(scores[:1], model.ratio)[0]
    still = plot.show_patches(pictures[0], selected, grid, title="patches that ask in GLCA")
    data = {"grid": list(grid), "count": len(selected), "images": shown}
    alt = "An image with all but the selected patches faded, at the model's own ratio."
    return Explorer("glca", data, still.figure, alt)


@torch.no_grad()
def pwca(
    model: nn.Module,
    images: Float[Tensor, "n 3 H W"],
    pictures: Sequence[Any] | Tensor,
    names: Sequence[str],
) -> Explorer:
    """How much of an image's attention leaks to a partner, for any token, layer by layer; heads averaged.

    Args:
        model: a `DCAL` or a vision transformer of timm's. Partners run through its blocks as a pair.
        images: normalised images of the model's size; the first asks, the others and a copy of itself are partners.
        pictures: the same images to look at, uint8 arrays (H, W, 3) or tensors (3, H, W).
        names: what the partners `images[1:]` are, in words.

    Raises:
        ValueError: names are missing, or too many.

    Source: Zhu et al. 2022, Eq. 4.
    """
    vit = model.backbone if isinstance(model, DCAL) else model
    if len(names) != len(images) - 1:
        raise ValueError(f"{len(images) - 1} names expected, one a partner, got {len(names)}: name images[1:]")
    others = [*range(1, len(images)), 0]
    with evaluating(model), record_queries_keys(vit) as record:
        tokens = embed(vit, images[[i for other in others for i in (0, other)]])
        for block in vit.blocks:
            tokens = run_block(block, tokens, _in_pairs(block.attn))
    count = tokens.shape[1]
    maps = torch.stack([attention_map(*pair).mean(dim=1)[:, :count] for pair in record]).cpu()  # L, pair, N, 2N
    shown = [
        {"name": name, "itself": other == 0, "href": to_png(pictures[other]), "maps": encode(maps[:, i])}
        for i, (other, name) in enumerate(zip(others, [*names, "itself"], strict=True))
    ]
    alone = attention_maps(model, images[:1]).mean(dim=2)[:, 0].cpu()
    grid = vit.patch_embed.grid_size
    figure, axes = plot.plt.subplots(1, 2, figsize=(4, 4.2), layout="constrained")
    for i, (ax, half) in enumerate(zip(axes, maps[-1, 0, 0].chunk(2), strict=True)):
        title = f"image {i + 1}: {half.sum():.0%}"
        plot.show_scores(pictures[(0, others[0])[i]], half[1:], grid, ax=ax, title=title)
    data = {"layers": len(maps), "grid": list(grid), "href": to_png(pictures[0]), "alone": encode(alone)}
    alt = "What the class token of image 1 reads in itself and in its partner, in the last layer: bright is high."
    return Explorer("pwca", data | {"partners": shown}, figure, alt)


def _in_pairs(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    """Attention of neighbours to one another, for `run_block`."""
    return lambda tokens: unpair_view(layer(pair_view(tokens)))
