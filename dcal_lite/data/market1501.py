"""Market-1501 (Zheng et al., ICCV 2015): 1,501 people, 6 cameras, 64 x 128 pixels.

A file name is `0002_c1s1_000451_03.jpg`: identity, camera, sequence, frame, box. In the test folder, identity 0000
marks distractors, which stay in the gallery, and -1 marks junk (bad boxes of a detector), which counts for nothing
and is left out here. In multi-query evaluation, a query is the mean embedding of all images of `gt_bbox` that show its
person to its camera. The images are for research only and may not be passed on.
Layout: KaiyangZhou/deep-person-reid, torchreid/data/datasets/image/market1501.py; multi-query:
layumi/Person_reID_baseline_pytorch, prepare.py and evaluate_gpu.py.
"""

from dataclasses import replace
from pathlib import Path

from dcal_lite.data.layout import Layout, without
from dcal_lite.data.official import verify_counts
from dcal_lite.data.records import Dataset, Files, Record, Split
from dcal_lite.errors import check_choice

SPLITS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
LAYOUT = Layout(
    title="Market-1501",
    folder="Market-1501-v15.09.15",
    holds=tuple(SPLITS.values()),
    example="0002_c1s1_000451_03.jpg",
    pattern=r"(?P<label>-1|\d{4})_c(?P<camera>[1-6])s\d_\d{6}_\d\d(\.jpg){1,2}",
    hint="this is another dataset (DukeMTMC-reID writes 0005_c2_f0046985.jpg) or a changed copy",
)
JUNK, BOXES = -1, "gt_bbox"
PROTOCOLS = ("single-query", "multi-query")


def load(
    root: str | Path | None = None,
    *,
    archive: str | Path | None = None,
    check_counts: bool = True,
    protocol: str = "single-query",
) -> Dataset:
    """Market-1501 with the splits train, query and gallery (3,368 queries against 15,913 images).

    Args:
        root: folder that holds `Market-1501-v15.09.15`, or that folder; None as in `data_root`.
        archive: the zip file, to be unpacked into `root` unless that was done before.
        check_counts: insist on the official numbers of images and identities; False for miniatures.
        protocol: "single-query", or "multi-query", where the images of one query are a track.

    Raises:
        ValueError: the dataset is not there, or it is not what was published.

    Source:
        Zheng et al., "Scalable Person Re-identification: A Benchmark", ICCV 2015.
    """
    check_choice("protocol of market1501", protocol, PROTOCOLS)
    folder = LAYOUT.find(root, archive)
    names = [*SPLITS.values(), *([BOXES] if protocol == "multi-query" else [])]
    parts = {part: LAYOUT.records(folder, part) for part in names}
    if check_counts:
        verify_counts("market1501", LAYOUT.title, parts)
    if protocol == "multi-query":
        parts["query"] = _tracks(parts["query"], parts[BOXES])
    splits = {split: Split(without(parts[part], JUNK), Files(folder)) for split, part in SPLITS.items()}
    return Dataset("market1501", "reid", splits)


def read_parts(folder: Path, layout: Layout = LAYOUT) -> dict[str, tuple[Record, ...]]:
    """The records of each folder, with those of `gt_bbox` where it is there."""
    names = [*SPLITS.values(), *([BOXES] if (folder / BOXES).is_dir() else [])]
    return {part: layout.records(folder, part) for part in names}


def _tracks(queries: tuple[Record, ...], boxes: tuple[Record, ...]) -> tuple[Record, ...]:
    """The boxes of the queries' people and cameras, with the queries' numbers (from 0) as tracks."""
    numbers = {(query.label, query.camera): i for i, query in enumerate(queries)}
    absent = numbers.keys() - {(box.label, box.camera) for box in boxes}
    if absent:
        query = queries[min(numbers[key] for key in absent)]
        raise ValueError(f"{BOXES} has no image of the person and camera of {query.source}: unpack the archive again")
    shown = (box for box in boxes if (box.label, box.camera) in numbers)
    return tuple(replace(box, track=numbers[box.label, box.camera]) for box in shown)
