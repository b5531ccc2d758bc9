"""Market-1501 (Zheng et al., ICCV 2015): 1,501 people, 6 cameras, 64 x 128 pixels.

A file name is `0002_c1s1_000451_03.jpg`: identity, camera, sequence, frame, box. In the test folder, identity 0000
marks distractors, which stay in the gallery, and -1 marks junk (bad boxes of a detector), which counts for nothing
and is left out here. The images are for research only and may not be passed on.
"""

import re
from pathlib import Path

from dcal_lite.data.archives import data_root, unpack
from dcal_lite.data.records import Dataset, Record, Split, reader

FOLDER = "Market-1501-v15.09.15"
SPLITS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
COUNTS = {"train": (12_936, 751), "query": (3_368, 750), "gallery": (19_732, 752)}  # files and labels, with 0 and -1
JUNK = -1

_NAME = re.compile(r"(-1|\d{4})_c([1-6])s\d_\d{6}_\d\d(\.jpg){1,2}")
_MIX_UPS = {  # numbers of files that tell what somebody has instead
    15_913: "the junk images (-1) were removed",
    519_732: "the 500,000 extra distractors were added",
    16_522: "this is DukeMTMC-reID",
    2_228: "this is DukeMTMC-reID",
    17_661: "this is DukeMTMC-reID",
    25_259: "this is gt_bbox, which serves multi-query evaluation",
}


def load(root: str | Path | None = None, *, archive: str | Path | None = None, check_counts: bool = True) -> Dataset:
    """Market-1501 with the splits train, query and gallery (3,368 queries against 15,913 images).

    Args:
        root: folder that holds `Market-1501-v15.09.15`, or that folder; None as in `data_root`.
        archive: the zip file, to be unpacked into `root` unless that was done before.
        check_counts: insist on the official numbers of images and identities; False for miniatures.

    Raises:
        ValueError: the dataset is not there, or it is not what was published.

    Source:
        Zheng et al., "Scalable Person Re-identification: A Benchmark", ICCV 2015.
    """
    root = data_root(root)
    folder = root if root.name == FOLDER or (root / SPLITS["train"]).is_dir() else root / FOLDER
    if archive is not None:
        unpack(archive, folder, folders=SPLITS.values())
    records = {split: _records(folder, subfolder) for split, subfolder in SPLITS.items()}
    if check_counts:
        for split in SPLITS:
            _check_counts(split, records[split])
    records["gallery"] = tuple(record for record in records["gallery"] if record.label != JUNK)
    return Dataset("market1501", "reid", {split: Split(r, reader(folder)) for split, r in records.items()})


def _records(folder: Path, subfolder: str) -> tuple[Record, ...]:
    """Records of the images in one folder, by name."""
    if not (folder / subfolder).is_dir():
        raise ValueError(
            f"there is no folder {folder / subfolder}: pass root=, or set DCAL_DATA to, the folder that "
            f"holds {FOLDER}, or pass archive=, the zip file to unpack there"
        )
    names = sorted(path.name for path in (folder / subfolder).iterdir() if path.suffix == ".jpg")
    return tuple(_record(subfolder, name) for name in names)


def _record(subfolder: str, name: str) -> Record:
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(
            f"{subfolder}/{name} is not a name like 0002_c1s1_000451_03.jpg: "
            "this is another dataset (DukeMTMC-reID writes 0005_c2_f0046985.jpg) or a changed copy"
        )
    return Record(f"{subfolder}/{name}", label=int(match[1]), camera=int(match[2]))


def _check_counts(split: str, records: tuple[Record, ...]) -> None:
    found = len(records), len({record.label for record in records})
    if found != COUNTS[split]:
        guess = _MIX_UPS.get(found[0], "the copy is not complete, or it was changed")
        raise ValueError(
            f"{SPLITS[split]} of Market-1501 has {COUNTS[split][0]:,} images and {COUNTS[split][1]} "
            f"labels, but {found[0]:,} and {found[1]} are there ({guess}): unpack the original archive "
            "again, or pass check_counts=False"
        )
