"""Evaluation: a model and a dataset in, the papers' scores out.

Letters: n images, B batch, C classes, D width of the embedding.
"""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm.auto import tqdm

from dcal_lite.backbones import evaluating
from dcal_lite.data.records import Dataset, Split
from dcal_lite.data.transforms import prepare
from dcal_lite.heads import Output
from dcal_lite.metrics import RankMetrics, first_of_track, rank_metrics, top1

HALF = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def evaluate(
    model: nn.Module,
    dataset: Dataset,
    *,
    resize: tuple[int, int] | None = None,
    mean: tuple[float, ...] = (0.5, 0.5, 0.5),
    std: tuple[float, ...] = (0.5, 0.5, 0.5),
    batch_size: int = 128,
    precision: str = "fp32",
    progress: bool = False,
) -> dict[str, float]:
    """Score a model by its task's protocol.

    Args:
        model: what `create_model` returns; it stays on its device and returns to its mode.
        dataset: a re-ID dataset (splits query and gallery) or a fine-grained one (split test).
        resize: size of the images before the centre crop to `model.img_size`; None resizes to that size directly.
        mean, std: of the pixel values in [0, 1], as in training.
        batch_size: images at a time; the scores don't depend on it.
        precision: "fp32", "bf16" or "fp16", of the forward pass.
        progress: show bars.

    Returns:
        re-ID: rank1, rank5, rank10, mAP, mAP_trapezoid, mINP; fine-grained: top1. All in [0, 1].
    """
    options = {"resize": resize, "mean": mean, "std": std, "batch_size": batch_size, "precision": precision,
               "progress": progress}  # fmt: skip
    if dataset.task == "reid":
        return summarise(rank_split(model, dataset, **options))
    test = dataset["test"]
    targets = torch.from_numpy(np.searchsorted(dataset["train"].classes, test.labels))
    return {"top1": top1(predictions(model, test, **options), targets)}


def rank_split(model: nn.Module, dataset: Dataset, **options) -> RankMetrics:
    """Rank the gallery for every query by Euclidean distance of embeddings; options as in `evaluate`.

    Clothes and tracks count where the records tell them, which is what the readers' protocols decide. A track of query
    images is one query, with the mean of their embeddings (multi-query).
    """
    query, gallery = dataset["query"], dataset["gallery"]
    features = [embeddings(model, split, **options) for split in (query, gallery)]
    features[0], query = _mean_of_tracks(features[0], query)
    columns = [torch.from_numpy(x) for x in (query.labels, gallery.labels, query.cameras, gallery.cameras)]
    return rank_metrics(*features, *columns, clothes=(query.clothes, gallery.clothes), tracks=gallery.tracks)


def _mean_of_tracks(features: Float[Tensor, "n D"], split: Split) -> tuple[Float[Tensor, "t D"], Split]:
    """The mean of each track's features, and the split of the tracks' first images."""
    first, track, count = np.unique(first_of_track(split.tracks), return_inverse=True, return_counts=True)
    if len(first) == len(split):
        return features, split
    total = features.new_zeros(len(first), features.shape[1]).index_add_(0, torch.from_numpy(track), features)
    return total / torch.from_numpy(count)[:, None], split.subset(first)


def summarise(ranks: RankMetrics) -> dict[str, float]:
    """The scores that papers print, in [0, 1]."""
    scores = {f"rank{k}": float(ranks.cmc[min(k, len(ranks.cmc)) - 1]) for k in (1, 5, 10)}
    return scores | {"mAP": ranks.mAP, "mAP_trapezoid": ranks.mAP_trapezoid, "mINP": ranks.mINP}


def embeddings(model: nn.Module, split: Split, **options) -> Float[Tensor, "n D"]:
    """What re-ID ranks by, for every image of a split, float32 on the CPU; options as in `evaluate`."""
    return torch.cat([output.embedding.float().cpu() for output in _outputs(model, split, **options)])


def predictions(model: nn.Module, split: Split, **options) -> Float[Tensor, "n C"]:
    """Class probabilities for every image of a split, float32 on the CPU; options as in `evaluate`."""
    return torch.cat([output.prediction.float().cpu() for output in _outputs(model, split, **options)])


@torch.inference_mode()
def _outputs(
    model: nn.Module,
    split: Split,
    *,
    resize: tuple[int, int] | None = None,
    mean: tuple[float, ...] = (0.5, 0.5, 0.5),
    std: tuple[float, ...] = (0.5, 0.5, 0.5),
    batch_size: int = 128,
    precision: str = "fp32",
    progress: bool = False,
) -> Iterator[Output]:
    device = next(model.parameters()).device
    images = split.images(resize or model.img_size, progress=progress)
    with evaluating(model):
        for batch in tqdm(images.split(batch_size), desc="evaluate", unit="batch", disable=not progress):
            ready = prepare(batch.to(device), model.img_size, mean=mean, std=std)
            with torch.autocast(device.type, HALF[precision], enabled=precision != "fp32"):
                yield model(ready)
