"""Interactive figures: one ES module of ours each, which needs no kernel and no other script.

A module has a function `render({model, el})`, anywidget's convention. On a page, module and data stand inline in the
HTML. In a live notebook, where anywidget is installed, the same figure is a widget, and a new `data` redraws it.
"""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from dcal_lite import plot
from dcal_lite.attention_rollout import cls_rollout
from dcal_lite.backbones import attention_maps
from dcal_lite.dcal import DCAL
from dcal_lite.explorers.convolution import hacnn, rga
from dcal_lite.explorers.figure import Explorer, encode, to_png
from dcal_lite.explorers.lists import ranking


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
