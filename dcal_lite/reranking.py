"""Re-ranking by k-reciprocal neighbours (Zhong et al., CVPR 2017), in sparse form.

Two images are alike if they have the same neighbours. p and g are k-reciprocal if each is among the other's k nearest.
The weights of p's k-reciprocal neighbours are a vector as long as the data set, with some sixty entries that are not
zero, and the Jaccard distance of two such vectors replaces most of the distance of the features. So everything after
the search of neighbours is sparse, and no N x N matrix is held.

Letters: Q queries, G gallery images, N = Q + G, D width of the features.

    R(p, k), k-reciprocal neighbours                                    _reciprocal
    R*(p, k1), with the neighbours of neighbours                        _expanded
    V, weights of the neighbours                                        _encoding
    mean of V over k2 neighbours, Jaccard distance, final distance      rerank

What the paper leaves open is as in the authors' code (zhunzhong07/person-re-ranking, re_ranking_ranklist.py): d is the
squared Euclidean distance, divided by the largest one of its row, to queries and gallery alike; every image is the
first of its own neighbours, on top of the k; k1/2 is rounded half to even; neighbours are added if more than 2/3 of
them are shared (the paper: at least 2/3); the weights of a row are divided by their sum. Ties go by index.
"""

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import csr_array
from torch import Tensor

from dcal_lite.metrics import prepared, squared_lengths

_ROWS = 256  # rows of distances in memory at a time
_PAIRS = 512  # pairs of features likewise: few enough for the processor's cache


def rerank(
    query: Float[Tensor, "Q D"],
    gallery: Float[Tensor, "G D"],
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    distance: str = "euclidean",
) -> Float[Tensor, "Q G"]:
    """Distances after re-ranking, for `rank_metrics_from_distances`.

    Args:
        query, gallery: features, on any device; half precision is computed in float32.
        k1: neighbours that must be reciprocal, from 1.
        k2: neighbours over which the weights are averaged, the image itself among them, 1..k1+1; 1 leaves them alone.
        lambda_value: share of the original distance in the final one, in [0, 1].
        distance: as in `rank_metrics`; "cosine" is d of the directions, which is proportional to the cosine distance.

    Returns:
        On the CPU, in [0, 1].

    Raises:
        ValueError: features do not fit together or are not finite, or a number is out of range.

    Source:
        Zhong et al., "Re-Ranking Person Re-Identification with k-Reciprocal Encoding", CVPR 2017, section 3.
    """
    if k1 < 1 or not 1 <= k2 <= k1 + 1 or not 0 <= lambda_value <= 1:
        raise ValueError(
            f"k1 >= 1, 1 <= k2 <= k1 + 1 and lambda_value in [0, 1] expected, got {k1}, {k2} and {lambda_value}"
        )
    if not len(query) or not len(gallery):
        raise ValueError(f"re-ranking needs queries and a gallery, got {len(query)} and {len(gallery)} images")
    features, queries = torch.cat(prepared(query, gallery, distance)), len(query)
    nearest, largest, final = _neighbours(features, queries, k1 + 1)
    expanded = _expanded(_reciprocal(nearest), _reciprocal(nearest[:, : round(k1 / 2) + 1]))
    encoding = _encoding(expanded, features, largest)
    encoding = (_incidence(nearest[:, :k2]) @ encoding) / min(k2, len(features))  # local query expansion
    weighted = encoding[queries:].T.tocsr()  # row j: the gallery images that have j among their neighbours
    for i, row in enumerate(final.numpy()):
        own = slice(*encoding.indptr[i : i + 2])
        other = weighted[encoding.indices[own]]
        smaller = np.minimum(other.data, np.repeat(encoding.data[own], np.diff(other.indptr)))
        shared = np.bincount(other.indices, smaller, minlength=len(row))
        jaccard = 1 - shared / (2 - shared)  # the larger of two weights sum to 2 less the smaller ones
        row[:] = (1 - lambda_value) * jaccard + lambda_value * row
    return final


def _neighbours(features: Tensor, queries: int, k: int) -> tuple[np.ndarray, Tensor, Tensor]:
    """The k nearest of every image, itself first (N, k); its largest distance (N,); d of queries and gallery (Q, G)."""
    size, squares = len(features), squared_lengths(features)
    nearest = np.empty((size, min(k, size)), dtype=np.int64)
    largest, final = squares.clone(), torch.empty(queries, size - queries, dtype=features.dtype)
    for start in range(0, size, _ROWS):
        rows = slice(start, start + _ROWS)
        block = torch.addmm(squares, features[rows], features.T, alpha=-2).add_(squares[rows, None]).clamp_(min=0)
        largest[rows] = block.amax(dim=1).clamp(min=torch.finfo(block.dtype).tiny)  # 0 where all images are the same
        count = len(final[rows])
        final[rows] = block[:count, queries:] / largest[rows][:count, None]
        block.diagonal(start).fill_(-1)  # rounding and copies of the image must not come before it
        nearest[rows] = _smallest(block, nearest.shape[1]).numpy(force=True)
    return nearest, largest, final


def _smallest(block: Tensor, k: int) -> Tensor:
    """Indices of each row's k smallest entries, ascending; of equal ones, the smaller index."""
    value, index = block.topk(min(k + 1, block.shape[1]), largest=False)  # of ties, in any order and whichever
    tied = (value[:, k:] == value[:, k - 1 : k]).any(dim=1)  # with one that would be left out
    index, order = index[:, :k].sort(dim=1)
    index = index.gather(1, value.gather(1, order).argsort(dim=1, stable=True))
    index[tied] = block[tied].argsort(dim=1, stable=True)[:, :k]
    return index


def _incidence(nearest: np.ndarray) -> csr_array:
    """The matrix (N, N) that is 1 where the column is among the row's neighbours (N, k)."""
    size, k = nearest.shape
    return csr_array((np.ones(size * k), nearest.ravel(), np.arange(0, size * k + 1, k)), shape=(size, size))


def _reciprocal(nearest: np.ndarray) -> csr_array:
    """R(p, k): 1 where each of two images is among the other's neighbours."""
    forward = _incidence(nearest)
    return forward.multiply(forward.T).tocsr()


def _expanded(reciprocal: csr_array, half: csr_array) -> csr_array:
    """R*(p, k1): with the half-size sets of those neighbours that share more than 2/3 of them.

    Not 0 where a member.
    """
    overlap = reciprocal.multiply(reciprocal @ half.T).tocsr()
    overlap.data[3 * overlap.data <= 2 * np.diff(half.indptr)[overlap.indices]] = 0
    overlap.eliminate_zeros()
    return reciprocal + overlap @ half


def _encoding(members: csr_array, features: Tensor, largest: Tensor) -> csr_array:
    """V: exp(-d) of the members of each row, divided by its sum."""
    count = np.diff(members.indptr)
    row, column = np.repeat(np.arange(len(count)), count), members.indices
    row, column = (torch.from_numpy(x).long().to(features.device) for x in (row, column))
    squared = [
        (features[p] - features[g]).square().sum(dim=1) / largest[p]
        for p, g in zip(row.split(_PAIRS), column.split(_PAIRS), strict=True)
    ]
    weights = np.exp(-torch.cat(squared).double().numpy(force=True))
    weights /= np.repeat(np.add.reduceat(weights, members.indptr[:-1]), count)  # no row is empty
    return csr_array((weights, members.indices, members.indptr), shape=members.shape)
