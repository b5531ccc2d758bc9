"""LTCC (Qian et al., ACCV 2020): 152 people in 478 outfits, 12 cameras; to be requested from its owners.

A file name is `094_1_c9_015923.png`: identity, outfit, camera, frame. The general protocol is the usual one. The
cloth-changing protocol also leaves out gallery images in which the query's person wears the query's clothes; queries
without a true match in other clothes count for nothing. Both train on all training images.
Layout and rule: guxinqian/Simple-CCReID, data/datasets/ltcc.py and tools/eval_metrics.py (mode "CC").
"""

from dataclasses import replace
from pathlib import Path

from dcal_lite.data.layout import Layout
from dcal_lite.data.official import verify_counts
from dcal_lite.data.records import Dataset, Files, Record, Split
from dcal_lite.errors import check_choice

PROTOCOLS = ("general", "cloth-changing")
SPLITS = {"train": "train", "query": "query", "gallery": "test"}
LAYOUT = Layout(
    title="LTCC",
    folder="LTCC_ReID",
    holds=tuple(SPLITS.values()),
    example="094_1_c9_015923.png",
    pattern=r"(?P<label>\d{3})_(?P<clothes>\d{1,2})_c(?P<camera>[1-9]|1[0-2])_\d+\.png",
)


def load(
    root: str | Path | None = None,
    *,
    archive: str | Path | None = None,
    check_counts: bool = True,
    protocol: str = "general",
) -> Dataset:
    """LTCC with the splits train, query and gallery (493 queries against 7,050 images).

    Args:
        root: folder that holds `LTCC_ReID`, or that folder; None as in `data_root`.
        archive: the archive, to be unpacked into `root` unless that was done before.
        check_counts: insist on the official numbers of images and identities; False for miniatures.
        protocol: "general", or "cloth-changing", where the records also tell the clothes and evaluation heeds them.

    Raises:
        ValueError: the dataset is not there, or it is not what was published.

    Source:
        Qian et al., "Long-Term Cloth-Changing Person Re-identification", ACCV 2020.
    """
    check_choice("protocol of ltcc", protocol, PROTOCOLS)
    folder = LAYOUT.find(root, archive)
    parts = read_parts(folder)
    if check_counts:
        verify_counts("ltcc", LAYOUT.title, parts)
    if protocol == "general":
        parts = {part: tuple(replace(record, clothes=-1) for record in records) for part, records in parts.items()}
    return Dataset("ltcc", "reid", {split: Split(parts[part], Files(folder)) for split, part in SPLITS.items()})


def read_parts(folder: Path, layout: Layout = LAYOUT) -> dict[str, tuple[Record, ...]]:
    """The records of each folder."""
    return {part: layout.records(folder, part) for part in SPLITS.values()}
