"""VeRi-776 (Liu et al., ICME and ECCV 2016): 776 vehicles, 20 cameras; to be requested from its owners.

A file name is `0002_c002_00030600_0.jpg`: vehicle, camera, frame, a flag. Query images are in the gallery, too; the
official lists of true matches and junk (gt_index.txt, jk_index.txt) are the usual rule of the same camera, written out.
Image-to-track, the protocol of the first papers, ranks the tracks of test_track.txt; today's papers rank images.
Layout: JDAI-CV/VeRidataset (README.md, baseline_evaluation_FACT_776.m) and JDAI-CV/fast-reid,
fastreid/data/datasets/veri.py.
"""

from dataclasses import replace
from pathlib import Path

from dcal_lite.data.layout import Layout
from dcal_lite.data.official import verify_counts
from dcal_lite.data.records import Dataset, Files, Record, Split
from dcal_lite.errors import check_choice

PROTOCOLS = ("image-to-image", "image-to-track")
SPLITS = {"train": "image_train", "query": "image_query", "gallery": "image_test"}
LAYOUT = Layout(
    title="VeRi-776",
    folder="VeRi",
    holds=tuple(SPLITS.values()),
    example="0002_c002_00030600_0.jpg",
    pattern=r"(?P<label>\d{4})_c(?P<camera>0(0[1-9]|1\d|20))_\d{8}_\d\.jpg",
)
_NAME = r"\d{4}_c\d{3}_\d{8}_\d\.jpg"
_TRACK = rf"(?:\d{{4}}_c\d{{3}}_t\d+\s+)?({_NAME}(?:\s+{_NAME})*)"  # a name of the track may come first


def load(
    root: str | Path | None = None,
    *,
    archive: str | Path | None = None,
    check_counts: bool = True,
    protocol: str = "image-to-image",
) -> Dataset:
    """VeRi-776 with the splits train, query and gallery (1,678 queries against 11,579 images).

    Args:
        root: folder that holds `VeRi`, or that folder; None as in `data_root`.
        archive: the archive, to be unpacked into `root` unless that was done before.
        check_counts: insist on the official numbers of images and vehicles; False for miniatures.
        protocol: "image-to-image", or "image-to-track", where each test image also has its track.

    Raises:
        ValueError: the dataset is not there, or it is not what was published.

    Source:
        Liu et al., "A Deep Learning-Based Approach to Progressive Vehicle Re-identification for Urban Surveillance",
        ECCV 2016.
    """
    check_choice("protocol of veri776", protocol, PROTOCOLS)
    folder = LAYOUT.find(root, archive)
    parts = read_parts(folder)
    if protocol == "image-to-track":
        parts["image_test"] = _with_tracks(folder, parts["image_test"])
    if check_counts:
        verify_counts("veri776", LAYOUT.title, parts)
    return Dataset("veri776", "reid", {split: Split(parts[part], Files(folder)) for split, part in SPLITS.items()})


def read_parts(folder: Path, layout: Layout = LAYOUT) -> dict[str, tuple[Record, ...]]:
    """The records of each folder."""
    return {part: layout.records(folder, part) for part in SPLITS.values()}


def _with_tracks(folder: Path, records: tuple[Record, ...]) -> tuple[Record, ...]:
    """The records with the numbers of their tracks, in test_track.txt from 0."""
    rows = LAYOUT.rows(folder, "test_track.txt", _TRACK, "0002_c002_00030600_0.jpg 0002_c002_00030605_1.jpg ...")
    tracks = {f"image_test/{name}": i for i, (names,) in enumerate(rows) for name in names.split()}
    absent = sorted({record.source for record in records} ^ tracks.keys())
    if absent:
        raise ValueError(
            f"{absent[0]} is not both an image and in a track of {folder / 'test_track.txt'}, as are {len(absent)} "
            "images in all: unpack the original archive again, or take protocol='image-to-image'"
        )
    return tuple(replace(record, track=tracks[record.source]) for record in records)
