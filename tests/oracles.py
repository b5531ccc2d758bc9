"""Slow answers, written as loops from the definitions, that the tests compare the library's with."""

from collections.abc import Sequence

import numpy as np


def ranking_scores(
    distances: np.ndarray,
    query_ids: Sequence[int],
    gallery_ids: Sequence[int],
    query_cams: Sequence[int],
    gallery_cams: Sequence[int],
) -> dict[str, np.ndarray]:
    """CMC (whole curve), AP, trapezoid AP and INP of each valid query, by sorting and walking down the list."""
    cmc, ap, trapezoid, inp = [], [], [], []
    for q, row in enumerate(distances):
        hits = []
        for g in sorted(range(len(row)), key=lambda g: (row[g], g)):
            same = gallery_ids[g] == query_ids[q]
            if gallery_ids[g] != -1 and not (same and gallery_cams[g] == query_cams[q]):
                hits.append(bool(same))
        if any(hits):
            cmc.append([any(hits[: k + 1]) for k in range(len(row))])
            ap.append(average_precision(hits))
            trapezoid.append(average_precision_matlab(hits))
            inp.append(sum(hits) / (max(i for i, hit in enumerate(hits) if hit) + 1))
    return {"cmc": np.array(cmc), "ap": np.array(ap), "trapezoid": np.array(trapezoid), "inp": np.array(inp)}


def average_precision(hits: Sequence[bool]) -> float:
    """Mean of the precision at each hit."""
    precisions = [sum(hits[: i + 1]) / (i + 1) for i, hit in enumerate(hits) if hit]
    return sum(precisions) / len(precisions)


def average_precision_matlab(hits: Sequence[bool]) -> float:
    """Area under the precision-recall curve by trapezoids, as compute_AP.m of Market-1501 walks the list."""
    area, old_recall, old_precision, found = 0.0, 0.0, 1.0, 0
    for i, hit in enumerate(hits):
        found += hit
        recall, precision = found / sum(hits), found / (i + 1)
        area += (recall - old_recall) * (old_precision + precision) / 2
        old_recall, old_precision = recall, precision
    return area
