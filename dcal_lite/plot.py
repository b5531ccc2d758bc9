"""Figures of the book. One colour for each branch everywhere, safe for colour-blind readers (Okabe & Ito)."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from torch import Tensor

COLOURS = {"sa": "#0072B2", "glca": "#D55E00", "pwca": "#009E73", "total": "#555555"}
NAMES = {"sa": "SA", "glca": "GLCA", "pwca": "PWCA", "total": "total"}


def show_images(images: Sequence[Any], titles: Sequence[str] = (), *, columns: int = 8, width: float = 8.0) -> Figure:
    """Show images in a grid.

    Args:
        images: uint8 arrays (H, W, 3) or tensors (3, H, W).
        titles: one a image, or none.
        columns: images in a row.
        width: of the figure, in inches.
    """
    arrays = [as_array(image) for image in images]
    columns = min(columns, len(arrays))
    rows = -(-len(arrays) // columns)
    height = width / columns * arrays[0].shape[0] / arrays[0].shape[1] + (0.25 if len(titles) else 0.05)
    figure, axes = plt.subplots(rows, columns, figsize=(width, rows * height), squeeze=False, layout="constrained")
    for ax in axes.flat:
        ax.set_axis_off()
    for i, (ax, array) in enumerate(zip(axes.flat, arrays, strict=False)):
        ax.imshow(array, interpolation="nearest")
        ax.set_title(titles[i] if len(titles) else "", fontsize=8)
    return figure


def show_scores(
    image: Any, scores: Float[Tensor, " patches"], grid: tuple[int, int], *, ax: Axes | None = None, title: str = ""
) -> Axes:
    """Lay one score a patch over the image: bright is high.

    Args:
        image: uint8 array (H, W, 3) or tensor (3, H, W).
        scores: one a patch, class token excluded, in raster order.
        grid: patches down and across.
    """
    ax = ax or plt.subplots(figsize=(3, 3), layout="constrained")[1]
    array = as_array(image)
    height, width = array.shape[:2]
    ax.imshow(array, interpolation="nearest", extent=(0, width, height, 0))
    heat = scores.detach().float().reshape(grid).cpu().numpy()
    ax.imshow(heat, cmap="magma", alpha=0.6, interpolation="bilinear", extent=(0, width, height, 0))
    ax.set_title(title, fontsize=9)
    ax.set_axis_off()
    return ax


def show_patches(
    image: Any, tokens: Int[Tensor, " R"], grid: tuple[int, int], *, ax: Axes | None = None, title: str = ""
) -> Axes:
    """Dim the image except for the chosen patches.

    Args:
        image: uint8 array (H, W, 3) or tensor (3, H, W).
        tokens: token positions as `top_patches` gives them, 1 is the first patch.
        grid: patches down and across.
    """
    ax = ax or plt.subplots(figsize=(3, 3), layout="constrained")[1]
    array = as_array(image)
    height, width = array.shape[0] / grid[0], array.shape[1] / grid[1]
    chosen = {int(token) - 1 for token in tokens}
    extent = (0, array.shape[1], array.shape[0], 0)
    ax.imshow(array, interpolation="nearest", extent=extent)
    framed, dimmed = {"fill": False, "edgecolor": COLOURS["glca"], "lw": 1.5}, {"fc": "w", "alpha": 0.7}
    for patch in range(grid[0] * grid[1]):
        corner = (patch % grid[1] * width, patch // grid[1] * height)
        ax.add_patch(Rectangle(corner, width, height, **(framed if patch in chosen else dimmed)))
    ax.set_title(title, fontsize=9)
    ax.set_axis_off()
    return ax


def show_map(attention: Float[Tensor, "M N"], *, ax: Axes | None = None, title: str = "", values: bool = False) -> Axes:
    """Show one attention map as a matrix: rows ask, columns answer.

    Args:
        attention: one map, e.g. of one head or their mean.
        values: write the numbers into the cells; for small maps.
    """
    ax = ax or plt.subplots(figsize=(3.2, 3.2), layout="constrained")[1]
    array = attention.detach().float().cpu().numpy()
    sns.heatmap(array, ax=ax, cmap="magma", square=True, cbar=False, annot=values, fmt=".2f",
                xticklabels=values, yticklabels=values)  # fmt: skip
    ax.set(xlabel="key token", ylabel="query token")
    ax.set_title(title, fontsize=9)
    return ax


def show_history(history: Sequence[dict[str, Any]], score: str) -> Figure:
    """Show a run's losses by branch, and its score where it was evaluated.

    Args:
        history: rows of `Run.history` or `metrics.jsonl`.
        score: name of the score, e.g. "mAP" or "top1".
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.3), layout="constrained")
    figure.get_layout_engine().set(wspace=0.08)
    epochs = [row["epoch"] for row in history]
    for key in history[0]:
        if key.startswith("loss/"):
            branch = key.removeprefix("loss/")
            style = {"color": COLOURS.get(branch, "k"), "ls": "--" if branch == "total" else "-"}
            left.plot(epochs, [row[key] for row in history], label=NAMES.get(branch, branch), marker="o", ms=3, **style)
    left.set(xlabel="epoch", ylabel="mean training loss (nats)", title="Does every branch learn?")
    left.legend(frameon=False, ncols=4, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    scored = [row for row in history if score in row]
    right.plot([row["epoch"] for row in scored], [100 * row[score] for row in scored], "o-", color="k")
    right.set(xlabel="epoch", ylabel=f"{score} (%)", title="Does the score rise?", ylim=(0, 100))
    for ax in (left, right):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def as_array(image: Any) -> np.ndarray:
    """An image as (H, W, 3) array, from an array of that shape or a tensor (3, H, W)."""
    return image.permute(1, 2, 0).cpu().numpy() if isinstance(image, torch.Tensor) else np.asarray(image)
