"""Evaluation: a model and a dataset in, the papers' scores out.

Letters: n images, B batch, C classes, D width of the embedding.

In a process group (torch.distributed, accelerate) every process must call `evaluate`: each computes its share of the
batches, then all features are gathered and each ranks its share of the queries. Batches and blocks are those of one
process, so all return the same scores as one alone, to the last bit, on the same kind of device with as many threads.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm.auto import tqdm

from dcal_lite import reranking
from dcal_lite.backbones import attention_for, evaluating
from dcal_lite.data.batches import Batches
from dcal_lite.data.records import Dataset, Split
from dcal_lite.data.transforms import prepare
from dcal_lite.metrics import (
    RankMetrics,
    calibration_error,
    class_accuracy,
    confusion,
    first_of_track,
    rank_metrics,
    rank_metrics_from_distances,
    top1,
)
from dcal_lite.precision import HALF, choose_precision
from dcal_lite.sharding import gather, is_sharded, share


def evaluate(
    model: nn.Module,
    dataset: Dataset,
    *,
    resize: tuple[int, int] | None = None,
    mean: tuple[float, ...] = (0.5, 0.5, 0.5),
    std: tuple[float, ...] = (0.5, 0.5, 0.5),
    batch_size: int = 128,
    precision: str = "fp32",
    flip: bool = False,
    distance: str = "euclidean",
    rerank: bool = False,
    progress: bool = False,
) -> dict[str, float]:
    """Score a model by its task's protocol.

    Args:
        model: what `create_model` returns; it stays on its device and returns to its mode.
        dataset: a re-ID dataset (splits query and gallery) or a fine-grained one (split test).
        resize: size of the images before the centre crop to `model.img_size`; None resizes to that size directly.
        mean, std: of the pixel values in [0, 1], as in training.
        batch_size: images at a time; the scores don't depend on it.
        precision: of the forward pass, as in `choose_precision`.
        flip: take the mean of the embeddings (or predictions) of an image and its mirror image.
        distance: of the embeddings, "euclidean" or "cosine"; re-ID only.
        rerank: rank by `dl.rerank`, with the paper's k1, k2 and lambda; re-ID only.
        progress: show bars.

    Returns:
        re-ID: rank1, rank5, rank10, mAP, mAP_trapezoid, mINP; fine-grained: top1, class_mean (mean accuracy of the
        classes), ece (expected calibration error). All in [0, 1].

    Raises:
        ValueError: a fine-grained dataset is to be re-ranked, a split has no images, or the device has no
            instructions for the precision.
    """
    options = {"resize": resize, "mean": mean, "std": std, "batch_size": batch_size, "precision": precision,
               "flip": flip, "sharded": is_sharded(), "progress": progress}  # fmt: skip
    if dataset.task == "reid":
        return summarise(rank_split(model, dataset, distance=distance, rerank=rerank, **options))
    check_task(dataset, rerank=rerank)
    test = dataset["test"]
    targets = torch.from_numpy(np.searchsorted(dataset["train"].classes, test.labels))
    prediction = predictions(model, test, **options)
    return {
        "top1": top1(prediction, targets),
        "class_mean": class_accuracy(confusion(prediction, targets)).nanmean().item(),
        "ece": calibration_error(prediction, targets),
    }


def check_task(dataset: Dataset, *, rerank: bool) -> None:
    """Raise ValueError where a dataset's task has no ranking to be re-ranked."""
    if rerank and dataset.task != "reid":
        raise ValueError(f"rerank=False expected: only re-ID ranks, and {dataset.name} is fine-grained")


def rank_split(
    model: nn.Module,
    dataset: Dataset,
    *,
    distance: str = "euclidean",
    rerank: bool = False,
    sharded: bool = False,
    **options,
) -> RankMetrics:
    """Rank the gallery for every query by the embeddings; options as in `evaluate`, sharded as in `embeddings`.

    Clothes and tracks count where the records tell them, which is what the readers' protocols decide. A track of query
    images is one query, with the mean of their embeddings (multi-query).
    """
    query, gallery = dataset["query"], dataset["gallery"]
    features = [embeddings(model, split, sharded=sharded, **options) for split in (query, gallery)]
    features[0], query = _mean_of_tracks(features[0], query)
    columns = [torch.from_numpy(x) for x in (query.labels, gallery.labels, query.cameras, gallery.cameras)]
    protocol = {"clothes": (query.clothes, gallery.clothes), "tracks": gallery.tracks}
    if rerank:  # every process does all of it: it takes seconds, and the same result everywhere
        return rank_metrics_from_distances(reranking.rerank(*features, distance=distance), *columns, **protocol)
    return rank_metrics(*features, *columns, distance=distance, sharded=sharded, **protocol)


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
    """What re-ID ranks by, for every image of a split, float32 on the CPU.

    Args:
        model, split: as in `evaluate`, whose options of images and forward pass count here too.
        options: `sharded=True` shares the batches among the processes of a group, which must all call this.
    """
    return _outputs(model, split, "embedding", **options)


def predictions(model: nn.Module, split: Split, **options) -> Float[Tensor, "n C"]:
    """Class probabilities for every image of a split, float32 on the CPU; arguments as in `embeddings`."""
    return _outputs(model, split, "prediction", **options)


@torch.inference_mode()
def _outputs(
    model: nn.Module,
    split: Split,
    name: str,
    *,
    resize: tuple[int, int] | None = None,
    mean: tuple[float, ...] = (0.5, 0.5, 0.5),
    std: tuple[float, ...] = (0.5, 0.5, 0.5),
    batch_size: int = 128,
    precision: str = "fp32",
    flip: bool = False,
    sharded: bool = False,
    progress: bool = False,
) -> Tensor:
    """The embedding or the prediction, by its name in `Output`, of every image."""
    if not len(split):
        raise ValueError("evaluation needs at least one image, got none: is the split empty?")
    device = next(model.parameters()).device
    precision = choose_precision(precision, device)
    if sharded:
        own = share(range(0, len(split), batch_size))
        split = split.subset(range(own.start, min(own.stop, len(split))))
    batches = Batches(split, resize or model.img_size, device, progress=progress)
    places = [np.arange(i, min(i + batch_size, len(split))) for i in range(0, len(split), batch_size)]
    results = []
    autocast = torch.autocast(device.type, HALF.get(precision), enabled=precision != "fp32")
    with evaluating(model), autocast, attention_for(model, precision), torch.random.fork_rng():
        torch.manual_seed(0)  # for models that draw: DCAL's random selection
        for batch in tqdm(batches(places), desc="evaluate", total=len(places), unit="batch", disable=not progress):
            ready = prepare(batch, model.img_size, mean=mean, std=std)
            views = (ready, ready.flip(3)) if flip else (ready,)
            result = sum(getattr(model(view), name).float() for view in views) / len(views)
            results.append(result.cpu())
    return torch.cat(gather(results) if sharded else results)
