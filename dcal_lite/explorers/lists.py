"""Explorer of a ranked list and its scores."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from dcal_lite import plot
from dcal_lite.errors import check_choice
from dcal_lite.explorers.figure import Explorer, to_png

KINDS = ("match", "same_camera", "other")  # of a gallery item: the query's person or not, by which camera


def ranking(
    query: Any, gallery: Mapping[str, Sequence[Any] | Tensor], kinds: Sequence[str], distances: Sequence[float]
) -> Explorer:
    """One query's ranked list: move items, change what they show, and see rank-1 and both APs change.

    Args:
        query: a picture, uint8 array (H, W, 3) or tensor (3, H, W).
        gallery: for each of the three kinds a picture of every item: "match" (the query's person by another camera),
            "same_camera" (the query's person by the query's camera), "other" (another person).
        kinds: what each item shows at first.
        distances: of the items to the query at first, above 0.

    Raises:
        ValueError: an unknown kind, or not one picture of each kind, one kind and one distance an item.

    Source: Zheng et al. 2015, section 5; the two APs: `RankMetrics`.
    """
    for kind in kinds:
        check_choice("kind of gallery item", kind, KINDS)
    lengths = {len(part) for part in (kinds, distances, *(gallery[kind] for kind in KINDS))}
    if len(lengths) != 1:
        raise ValueError(f"pictures of each kind, kinds and distances of equally many items expected, got {lengths}")
    items = [
        {"kind": kind, "distance": float(distance), "pictures": {name: to_png(gallery[name][i]) for name in KINDS}}
        for i, (kind, distance) in enumerate(zip(kinds, distances, strict=True))
    ]
    order = sorted(range(len(items)), key=lambda i: items[i]["distance"])
    pictures = [query, *(gallery[kinds[i]][i] for i in order)]
    still = plot.show_images(pictures, ["query", *(kinds[i].replace("_", " ") for i in order)], columns=len(pictures))
    far = max(item["distance"] for item in items)
    data = {"query": to_png(query), "items": items, "limit": 1.1 * far, "step": far / 100}
    return Explorer("ranking", data, still, "A query and a gallery of drawn people, the nearest first.")
