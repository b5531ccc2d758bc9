"""Scores: accuracy, confusion and calibration of a classifier; CMC, mAP and mINP of a ranking, by counting.

A ranking need not be sorted to be scored. The rank of a true match is the number of valid gallery items that are
nearer to the query; all the scores follow from these ranks. So distances are made and used a few queries at a time,
and no (queries x gallery) matrix and no permutation is ever held. Items at exactly the same distance rank by their
index in the gallery.

The rules are those of Market-1501 (Zheng et al., ICCV 2015): a gallery item of the query's identity *and* camera is
left out of that query's ranking; an item of identity -1 (junk) is left out of every ranking; an item whose identity
no query has (a distractor, identity 0) stays; scores are means over the queries that have a true match. Two protocols
ask for more. Cloth-changing (LTCC): an item of the query's identity in the same clothes is left out as well.
Image-to-track (VeRi-776): gallery images of one track are one item, as near as the nearest of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor
from torch.nn.functional import normalize

from dcal_lite.errors import check_choice
from dcal_lite.sharding import gather, share

_QUERIES = 256  # distances are made for so many queries at a time ...
_TILE = 4096  # ... and so many gallery items: a fixed grid, so that no split of the gallery can change a last bit
_WORDS = 255  # words of eight flags that are added up at a time: no byte of the sum can overflow
_MATCHES = 64  # true matches of one query that are ranked at a time

Labels = Int[np.ndarray, "_"] | Int[Tensor, "_"]
Rows = Callable[[int, int], np.ndarray]  # distances of some queries (first, stop) to all gallery items


@dataclass(frozen=True, eq=False)
class RankMetrics:
    """Scores of a ranking, all in 0..1, as means over the valid queries (V of them).

    Args:
        cmc: share of queries whose first true match is among the k+1 nearest items; `cmc[0]` is rank-1.
        mAP: mean over the queries of the mean precision at their true matches (torchreid, fast-reid, TransReID).
        mAP_trapezoid: the same with the mean of the precisions just before and at each true match, as in the
            MATLAB code of Market-1501; that code divides by all queries, here too invalid ones are left out.
        mINP: mean of (number of true matches) / (rank of the last one, from 1) (Ye et al. 2021).
        average_precision: each valid query's share in `mAP`, in the queries' order.
        first_match: rank of each valid query's first true match, from 0.
    """

    cmc: Float[np.ndarray, "K"]
    mAP: float
    mAP_trapezoid: float
    mINP: float
    average_precision: Float[np.ndarray, "V"]
    first_match: Int64[np.ndarray, "V"]

    @property
    def valid_queries(self) -> int:
        """Number of queries that have a true match."""
        return len(self.average_precision)


def top1(prediction: Float[Tensor, "B C"], targets: Int[Tensor, "B"]) -> float:
    """Share of images whose largest score is that of the target, in 0..1.

    Args:
        prediction: scores or probabilities; of equal ones the first counts.
        targets: class indices, 0..C-1.

    Raises:
        ValueError: there is no image, or a score is NaN.
    """
    _check_prediction(prediction, "top1")
    return (prediction.argmax(dim=1) == targets.to(prediction.device)).double().mean().item()


def confusion(prediction: Float[Tensor, "B C"], targets: Int[Tensor, "B"]) -> Int64[Tensor, "C C"]:
    """Number of images of each class (row) that are taken for each class (column), on the CPU.

    Args:
        prediction, targets: as in `top1`, with its errors.
    """
    _check_prediction(prediction, "confusion")
    classes = prediction.shape[1]
    cell = targets.cpu() * classes + prediction.argmax(dim=1).cpu()
    return cell.bincount(minlength=classes**2).view(classes, classes)


def class_accuracy(counts: Int64[Tensor, "C C"]) -> Float64[Tensor, "C"]:
    """Share of each class's images that are recognised, of a `confusion`; NaN where a class has no image.

    Its `nanmean()` counts every class the same, as the protocol of FGVC-Aircraft does (Maji et al. 2013).
    """
    return counts.diagonal().double() / counts.sum(dim=1)


def most_confused(counts: Int64[Tensor, "C C"], limit: int = 10) -> list[tuple[int, int, float]]:
    """The pairs of classes that are most alike to a classifier, most confused first.

    Args:
        counts: a `confusion`.
        limit: pairs at most; fewer if no more are confused.

    Returns:
        Two classes, the smaller one first, and the share of the images of both that are taken for the other one; of
        equal shares, the smaller classes first.
    """
    images = counts.sum(dim=1)
    first, second = torch.triu_indices(*counts.shape, offset=1)
    mistaken = (counts + counts.T)[first, second].double() / (images[first] + images[second]).clamp(min=1)
    order = mistaken.argsort(descending=True, stable=True)[:limit]
    pairs = zip(first[order].tolist(), second[order].tolist(), mistaken[order].tolist(), strict=True)
    return [pair for pair in pairs if pair[2] > 0]


def lookalike_error(counts: Int64[Tensor, "C C"], groups: Sequence[object]) -> float:
    """Share of all images that are taken for another class of their own group: the part of the error, 1 - top-1, that
    is between look-alikes.

    Args:
        counts: a `confusion`.
        groups: the group of each class, C of them: Plumage's families, Aircraft's, the genera of birds.
    """
    if len(groups) != len(counts):
        raise ValueError(f"a group for each of {len(counts)} classes expected, got {len(groups)}")
    _, group = np.unique(np.asarray(groups).astype(str), return_inverse=True)
    same = torch.from_numpy(group[:, None] == group).fill_diagonal_(False)
    return (counts[same].sum() / counts.sum()).item()


def calibration_error(prediction: Float[Tensor, "B C"], targets: Int[Tensor, "B"], *, bins: int = 15) -> float:
    """Expected calibration error: how far confidence and accuracy are apart, in 0..1.

    Images go into bins by the probability of the predicted class. It is the mean over the images of their bins'
    distances from accuracy to mean probability.

    Args:
        prediction: probabilities.
        targets: class indices, 0..C-1.
        bins: of equal width; bin m holds the probabilities in ((m - 1) / bins, m / bins].

    Raises:
        ValueError: there is no image, or a prediction is no probability.

    Source:
        Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 2.
    """
    _check_prediction(prediction, "calibration_error")
    confidence, predicted = prediction.double().cpu().max(dim=1)
    if prediction.min() < 0 or confidence.max() > 1 + 1e-3:  # a mean of float16 softmaxes may exceed 1 a little
        raise ValueError("calibration_error needs probabilities in [0, 1]: apply softmax to the logits")
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:-1]
    gap = torch.zeros(bins, dtype=torch.float64)
    gap.index_add_(0, torch.bucketize(confidence, edges), (predicted == targets.cpu()).double() - confidence)
    return (gap.abs().sum() / len(confidence)).item()


def _check_prediction(prediction: Tensor, name: str) -> None:
    if len(prediction) == 0:
        raise ValueError(f"{name} needs at least one image, got none: is the split empty?")
    if prediction.isnan().any():
        raise ValueError(f"{name} got NaN predictions: training has diverged, lower the learning rate")


def first_of_track(tracks: Int[np.ndarray, "n"]) -> Int64[np.ndarray, "n"]:
    """For every image the index of the first image of its track; of track -1: its own."""
    alone = tracks.max(initial=0) + 1 + np.arange(len(tracks))
    _, first, track = np.unique(np.where(tracks < 0, alone, tracks), return_index=True, return_inverse=True)
    return first[track].astype(np.int64)


def rank_metrics(
    query: Float[Tensor, "Q D"],
    gallery: Float[Tensor, "G D"],
    query_ids: Labels,
    gallery_ids: Labels,
    query_cams: Labels,
    gallery_cams: Labels,
    *,
    distance: str = "euclidean",
    max_rank: int = 50,
    clothes: tuple[Labels, Labels] | None = None,
    tracks: Labels | None = None,
    sharded: bool = False,
) -> RankMetrics:
    """Score the ranking of the gallery by distance to each query.

    Args:
        query, gallery: features, on any device; half precision is computed in float32.
        query_ids, gallery_ids: identities; -1 marks junk, 0 distractors.
        query_cams, gallery_cams: cameras.
        distance: of the features as given ("euclidean"), or of their directions ("cosine").
        max_rank: length of the CMC curve; no longer than the gallery.
        clothes: outfits in the queries and in the gallery, -1: not known. Within one identity equal numbers mean the
            same outfit, and an item in the query's outfit is left out.
        tracks: track of each gallery image, -1: an item by itself. Images of a track share identity and camera.
        sharded: share the queries among the processes of torch.distributed, which must all call this with the same
            arguments; the result is the same to the last bit.

    Raises:
        ValueError: features or labels do not fit together or are not finite, or no query has a true match.

    Note:
        Features in half precision move a distance ‖q - g‖ by at most u (‖q‖ + ‖g‖), with u = 2^-11 for float16 (of
        ordinary numbers, 6e-5 to 65,504) and 2^-8 for bfloat16: two items change places only if their distances
        differ by less than the sum of their bounds. mAP of unit features moves by less than u in the tests.

    Source:
        Zheng et al., "Scalable Person Re-identification: A Benchmark", ICCV 2015, section 5.
    """
    query, gallery = prepared(query, gallery, distance)
    offset = squared_lengths(gallery) if distance == "euclidean" else torch.zeros_like(gallery[:, 0])

    def rows(start: int, stop: int) -> np.ndarray:
        # |q - g|^2 less |q|^2, which a query's ranking does not see; of directions, twice the cosine distance less 2
        block = query.new_empty(stop - start, len(gallery))
        for i in range(0, len(gallery), _TILE):
            tile = slice(i, i + _TILE)
            block[:, tile] = torch.addmm(offset[tile], query[start:stop], gallery[tile].T, alpha=-2)
        return block.numpy(force=True)

    labels = _labels((len(query), len(gallery)), query_ids, gallery_ids, query_cams, gallery_cams, *(clothes or ()))
    return _score(*_by_track(rows, labels, tracks), max_rank=max_rank, sharded=sharded)


def rank_metrics_from_distances(
    distances: Float[Tensor, "Q G"],
    query_ids: Labels,
    gallery_ids: Labels,
    query_cams: Labels,
    gallery_cams: Labels,
    *,
    max_rank: int = 50,
    clothes: tuple[Labels, Labels] | None = None,
    tracks: Labels | None = None,
) -> RankMetrics:
    """Score the ranking of the gallery by given distances (of a re-ranking, say); all else as in `rank_metrics`."""

    def rows(start: int, stop: int) -> np.ndarray:
        block = distances[start:stop]
        return (block if block.dtype == torch.float64 else block.float()).numpy(force=True)

    labels = _labels(tuple(distances.shape), query_ids, gallery_ids, query_cams, gallery_cams, *(clothes or ()))
    return _score(*_by_track(rows, labels, tracks), max_rank=max_rank)


def prepared(query: Tensor, gallery: Tensor, distance: str) -> tuple[Tensor, Tensor]:
    """Features whose Euclidean distance ranks by `distance`: finite, float32 or float64, on the gallery's device."""
    check_choice("distance", distance, ("euclidean", "cosine"))
    if query.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"query features are {query.shape[1]} wide and gallery features {gallery.shape[1]}: "
            "compute both with the same model"
        )
    for features, name in ((query, "query"), (gallery, "gallery")):
        if not all(tile.isfinite().all() for tile in features.split(_TILE)):
            raise ValueError(f"the {name} features hold NaN or infinity: was the model trained to the end?")
    gallery = gallery.detach() if gallery.dtype == torch.float64 else gallery.detach().float()
    query = query.detach().to(gallery)
    return (normalize(query, dim=1), normalize(gallery, dim=1)) if distance == "cosine" else (query, gallery)


def squared_lengths(features: Float[Tensor, "n D"]) -> Float[Tensor, "n"]:
    """Sum of each row's squares, without a copy of all features."""
    return torch.cat([tile.square().sum(dim=1) for tile in features.split(_TILE)])


def _labels(shape: tuple[int, int], *labels: Labels) -> list[np.ndarray]:
    """Identities, cameras and perhaps clothes, of the queries and of the gallery, as arrays of the expected lengths."""
    arrays = [np.asarray(x.cpu() if isinstance(x, Tensor) else x) for x in labels]
    names = (
        "query_ids",
        "gallery_ids",
        "query_cams",
        "gallery_cams",
        "clothes of the queries",
        "clothes of the gallery",
    )
    for array, name, length in zip(arrays, names, shape * 3, strict=False):
        if array.shape != (length,):
            raise ValueError(f"{name} must have one entry for each of {length} images, got shape {array.shape}")
    return arrays


def _by_track(rows: Rows, labels: list[np.ndarray], tracks: Labels | None) -> tuple[Rows, list[np.ndarray]]:
    """Distances and labels of tracks instead of gallery images; tracks are in the order of their first images."""
    if tracks is None:
        return rows, labels
    tracks = np.asarray(tracks.cpu() if isinstance(tracks, Tensor) else tracks)
    size = len(labels[1])
    if tracks.shape != (size,):
        raise ValueError(f"tracks must have one entry for each of {size} images, got shape {tracks.shape}")
    if (tracks < 0).all():  # every image by itself
        return rows, labels
    first = first_of_track(tracks)
    order = np.argsort(first, kind="stable")  # images of a track stand together
    start = np.flatnonzero(np.diff(first[order], prepend=-1))
    if any((array != array[first]).any() for array in labels[1::2]):
        raise ValueError("the images of a track must share identity, camera and clothes: check the list of tracks")

    def nearest(first_query: int, stop: int) -> np.ndarray:
        return np.minimum.reduceat(rows(first_query, stop)[:, order], start, axis=1)

    return nearest, [array[order][start] if i % 2 else array for i, array in enumerate(labels)]


def _score(rows: Rows, labels: list[np.ndarray], *, max_rank: int, sharded: bool = False) -> RankMetrics:
    """Collect the ranks of all true matches; `rows(start, stop)` gives the distances of these queries."""
    query_ids, gallery_ids, query_cams, gallery_cams, *clothes = labels
    size, junk = len(gallery_ids), np.flatnonzero(gallery_ids == -1)
    query, item = _same_identity(query_ids, gallery_ids)
    same = query_cams[query] == gallery_cams[item]
    if clothes:
        worn = clothes[0][query]
        same |= (worn == clothes[1][item]) & (worn >= 0)
    matches, left_out = (_by_query(query[x], item[x], len(query_ids)) for x in (~same, same))
    width = 8 * _WORDS * -(-size // (8 * _WORDS))
    blocks, ranks = range(0, len(query_ids), _QUERIES), []
    for start in share(blocks) if sharded else blocks:
        block = rows(start, min(start + _QUERIES, len(query_ids)))
        padded = np.full(width, np.inf, dtype=block.dtype)
        for i, row in enumerate(block, start):
            if len(matches[i]):
                padded[:size] = row
                if not _is_finite(padded[:size]):
                    raise ValueError(f"a distance of query {i} is NaN or infinite: distances must be finite")
                padded[left_out[i]] = np.inf
                padded[junk] = np.inf
                ranks += [_ranks(padded, matches[i][k : k + _MATCHES]) for k in range(0, len(matches[i]), _MATCHES)]
    ranks = gather(ranks) if sharded else ranks
    count = np.array([len(x) for x in matches if len(x)])
    return _summary(ranks, count, min(max_rank, size))


def _same_identity(query_ids: np.ndarray, gallery_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of a query and a gallery item of its identity, junk apart; by query, then by item."""
    known = np.flatnonzero(gallery_ids != -1)
    order = known[np.argsort(gallery_ids[known], kind="stable")]
    first, last = (np.searchsorted(gallery_ids[order], query_ids, side) for side in ("left", "right"))
    count = last - first
    query = np.repeat(np.arange(len(query_ids)), count)
    within = np.arange(len(query)) - np.repeat(np.cumsum(count) - count, count)
    return query, order[first[query] + within]


def _by_query(query: np.ndarray, item: np.ndarray, queries: int) -> list[np.ndarray]:
    """The items of each query, from pairs that are sorted by query."""
    return np.split(item, np.searchsorted(query, np.arange(1, queries)))


def _is_finite(row: np.ndarray) -> bool:
    # 0 times NaN or infinity is NaN; one pass, where np.isfinite would write a mask and read it again
    with np.errstate(invalid="ignore"):
        return bool(np.dot(row, np.zeros_like(row)) == 0)


def _ranks(row: np.ndarray, matches: np.ndarray) -> np.ndarray:
    """Number of items nearer than each match (ascending indices); of ties, the smaller index."""
    first, last = matches[0], matches[-1] + 1
    limit = row[matches, None]
    nearer = np.empty((len(matches), len(row)), dtype=bool)
    np.less_equal(row[:last], limit, out=nearer[:, :last])
    np.less(row[last:], limit, out=nearer[:, last:])
    # Up to here an item among the matches counts wherever it is equally near; it must also come
    # earlier.
    earlier = np.arange(first, last) < matches[:, None]
    nearer[:, first:last] &= (row[first:last] != limit) | earlier
    # Eight flags are added at once, as the bytes of one word.
    words = nearer.view(np.uint64).reshape(len(matches), -1, _WORDS).sum(axis=2)
    return words.view(np.uint8).sum(axis=1, dtype=np.uint32)


def _summary(ranks: list[np.ndarray], count: np.ndarray, max_rank: int) -> RankMetrics:
    """The scores, of the ranks (from 0) of all true matches and how many each valid query has."""
    if not ranks:
        raise ValueError(
            "no query has a true match in the gallery (same identity, another camera): "
            "check identities and cameras, and that query and gallery were not swapped"
        )
    rank = np.concatenate(ranks).astype(np.int64)
    owner = np.repeat(np.arange(len(count)), count)
    rank = rank[np.lexsort((rank, owner))]  # ascending within each query
    start = np.cumsum(count) - count  # where each query's matches begin
    found = np.arange(len(rank)) - start[owner]  # true matches nearer than this one
    precision = (found + 1) / (rank + 1)
    before = np.where(rank > 0, found / np.maximum(rank, 1), 1.0)  # precision one rank earlier
    average_precision = np.add.reduceat(precision, start) / count
    trapezoid = np.add.reduceat((before + precision) / 2, start) / count
    first_match, last_match = rank[start], rank[start + count - 1]
    return RankMetrics(
        cmc=np.cumsum(np.bincount(first_match, minlength=max_rank)[:max_rank]) / len(count),
        mAP=average_precision.mean().item(),
        mAP_trapezoid=trapezoid.mean().item(),
        mINP=(count / (last_match + 1)).mean().item(),
        average_precision=average_precision,
        first_match=first_match,
    )
