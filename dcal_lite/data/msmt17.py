"""MSMT17 (Wei et al., CVPR 2018): 4,101 people, 15 cameras, in two versions that must not be mixed up.

V2 is V1 with masked faces: the same lists, other folders (`mask_train_v2`, `mask_test_v2`), lower scores. Lines of the
lists are `0000/0000_000_01_0303morning_0015_0.jpg 0`: path (its third number is the camera), identity. Identity 0 is a
person like the others. Papers train on both list_train.txt and list_val.txt. To be requested from the owners.
Layout: KaiyangZhou/deep-person-reid, torchreid/data/datasets/image/msmt17.py.
"""

from pathlib import Path

from dcal_lite.data.layout import Layout
from dcal_lite.data.official import verify_counts
from dcal_lite.data.records import Dataset, Files, Record, Split
from dcal_lite.errors import check_choice

LAYOUTS = {
    "V1": Layout(title="MSMT17 V1", folder="MSMT17_V1", holds=("train", "test")),
    "V2": Layout(title="MSMT17 V2", folder="MSMT17_V2", holds=("mask_train_v2", "mask_test_v2")),
}
LISTS = {"train": ("list_train", "list_val"), "query": ("list_query",), "gallery": ("list_gallery",)}
_LINE = r"(\d{4}/\d{4}_\d{3}_(\d\d)_\w+\.jpg) (\d+)", "0000/0000_000_01_0303morning_0015_0.jpg 0"


def load(
    root: str | Path | None = None,
    *,
    archive: str | Path | None = None,
    check_counts: bool = True,
    protocol: str = "V1",
) -> Dataset:
    """MSMT17 with the splits train, query and gallery (11,659 queries against 82,161 images).

    Args:
        root: folder that holds `MSMT17_V1` or `MSMT17_V2`, or that folder; None as in `data_root`.
        archive: the archive, to be unpacked into `root` unless that was done before.
        check_counts: insist on the official numbers of images and identities; False for miniatures.
        protocol: the version, "V1" or "V2"; to be told with every score.

    Raises:
        ValueError: the dataset is not there, or it is the other version, or not what was published.

    Source:
        Wei et al., "Person Transfer GAN to Bridge Domain Gap for Person Re-Identification", CVPR 2018.
    """
    check_choice("protocol of msmt17", protocol, LAYOUTS)
    layout = LAYOUTS[protocol]
    folder = layout.find(root, archive)
    _check_version(folder, protocol)
    parts = read_parts(folder, layout)
    if check_counts:
        verify_counts("msmt17", layout.title, parts)
    return Dataset("msmt17", "reid", {split: Split(records, Files(folder)) for split, records in parts.items()})


def read_parts(folder: Path, layout: Layout) -> dict[str, tuple[Record, ...]]:
    """The records of each split."""
    return {split: _records(layout, folder, split) for split in LISTS}


def _records(layout: Layout, folder: Path, split: str) -> tuple[Record, ...]:
    images = layout.holds[split != "train"]
    rows = [row for name in LISTS[split] for row in layout.rows(folder, f"{name}.txt", *_LINE)]
    return tuple(Record(f"{images}/{path}", int(label), int(camera)) for path, camera, label in rows)


def _check_version(folder: Path, protocol: str) -> None:
    """The other version's folders tell that it is the other version."""
    (other,) = LAYOUTS.keys() - {protocol}
    for place in (folder, folder.parent, folder.with_name(LAYOUTS[other].folder)):
        missing = not (folder / LAYOUTS[protocol].holds[0]).is_dir()
        if missing and (place / LAYOUTS[other].holds[0]).is_dir():
            raise ValueError(
                f"{place} holds MSMT17 {other}, not {protocol} (V2 has masked faces and gives lower scores): "
                f"pass protocol={other!r} and say so with the result, or get {protocol}"
            )
