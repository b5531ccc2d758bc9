"""FGVC-Aircraft (Maji et al., 2013): 100 variants of aircraft. Research only.

Each part has a list of lines `1025794 707-320`: image, variant; `variants.txt` holds the variants in the order of the
classes. The lists of families and manufacturers are not read. The 20 rows at the bottom of each image are a banner that
names its author. The dataset's README.md asks to remove it for training and evaluation: it is cut off on reading.
Layout: pytorch/vision, torchvision/datasets/fgvc_aircraft.py (which leaves the banner there).
"""

from pathlib import Path

from dcal_lite.data.layout import Layout, train_and_val
from dcal_lite.data.official import verify_counts
from dcal_lite.data.records import Dataset, Files, Record, Split
from dcal_lite.errors import check_choice

BANNER = 20  # rows
PROTOCOLS = ("trainval", "train")
LAYOUT = Layout(
    title="FGVC-Aircraft", folder="fgvc-aircraft-2013b", holds=("data/images", "data/variants.txt")
)  # fmt: skip
_LINE = r"(\d{7}) (\S.*)", "1025794 707-320"


def load(
    root: str | Path | None = None,
    *,
    archive: str | Path | None = None,
    check_counts: bool = True,
    protocol: str = "trainval",
) -> Dataset:
    """FGVC-Aircraft with the splits train and test (6,667 and 3,333 images).

    Args:
        root: folder that holds `fgvc-aircraft-2013b`, or that folder; None as in `data_root`.
        archive: the tar.gz file, to be unpacked into `root` unless that was done before.
        check_counts: insist on the official numbers of images and variants; False for miniatures.
        protocol: "trainval" trains on the validation images, too, as papers do; "train" has them as a split val.

    Raises:
        ValueError: the dataset is not there, or it is not what was published.

    Source:
        Maji et al., "Fine-Grained Visual Classification of Aircraft", arXiv:1306.5151, 2013.
    """
    check_choice("protocol of aircraft", protocol, PROTOCOLS)
    folder = LAYOUT.find(root, archive)
    parts = read_parts(folder)
    if check_counts:
        verify_counts("aircraft", LAYOUT.title, parts)
    splits = train_and_val(parts, protocol)
    read = Files(folder, banner=BANNER)
    return Dataset("aircraft", "fgvc", {split: Split(records, read) for split, records in splits.items()})


def read_parts(folder: Path, layout: Layout = LAYOUT) -> dict[str, tuple[Record, ...]]:
    """The records of each list."""
    rows = layout.rows(folder, "data/variants.txt", r"(\S.*)", "707-320")
    classes = {variant: label for label, (variant,) in enumerate(rows)}
    return {part: _records(folder, part, classes) for part in ("train", "val", "test")}


def _records(folder: Path, part: str, classes: dict[str, int]) -> tuple[Record, ...]:
    name = f"data/images_variant_{part}.txt"
    rows = LAYOUT.rows(folder, name, *_LINE)
    unknown = [variant for _, variant in rows if variant not in classes]
    if unknown:
        raise ValueError(
            f"{folder / name} has the variant {unknown[0][:80]!r}, which variants.txt lacks: unpack the original "
            "archive again"
        )
    return tuple(Record(f"data/images/{image}.jpg", classes[variant]) for image, variant in rows)
