"""CUB-200-2011 (Wah et al., 2011): 200 species of birds. Research and education only.

Lists give a number to every image: `images.txt` (number, path), `image_class_labels.txt` (number, class from 1) and
`train_test_split.txt` (number, 1 for training). Boxes and parts are not read.
Layout: TACJu/TransFG, utils/dataset.py (class CUB), and the dataset's own README.
"""

from pathlib import Path

from dcal_lite.data.layout import Layout
from dcal_lite.data.official import verify_counts
from dcal_lite.data.records import Dataset, Files, Record, Split

LAYOUT = Layout(title="CUB-200-2011", folder="CUB_200_2011", holds=("images", "images.txt"))
_IMAGE = r"(\d+) (\d{3}\.[\w'-]+/[\w'-]+\.jpg)", "1 001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg"
_LISTS = {"image_class_labels.txt": (r"(\d+) (\d+)", "1 1"), "train_test_split.txt": (r"(\d+) ([01])", "1 0")}


def load(root: str | Path | None = None, *, archive: str | Path | None = None, check_counts: bool = True) -> Dataset:
    """CUB-200-2011 with the splits train and test (5,994 and 5,794 images).

    Args:
        root: folder that holds `CUB_200_2011`, or that folder; None as in `data_root`.
        archive: the tgz file, to be unpacked into `root` unless that was done before.
        check_counts: insist on the official numbers of images and classes; False for miniatures.

    Raises:
        ValueError: the dataset is not there, or it is not what was published.

    Source:
        Wah et al., "The Caltech-UCSD Birds-200-2011 Dataset", CNS-TR-2011-001, 2011.
    """
    folder = LAYOUT.find(root, archive)
    parts = read_parts(folder)
    if check_counts:
        verify_counts("cub", LAYOUT.title, parts)
    return Dataset("cub", "fgvc", {split: Split(records, Files(folder)) for split, records in parts.items()})


def read_parts(folder: Path, layout: Layout = LAYOUT) -> dict[str, tuple[Record, ...]]:
    """The records of each split."""
    paths = dict(layout.rows(folder, "images.txt", *_IMAGE))
    labels, training = (dict(layout.rows(folder, name, *line)) for name, line in _LISTS.items())
    if not paths.keys() == labels.keys() == training.keys():
        raise ValueError(
            f"images.txt, {' and '.join(_LISTS)} of {folder} do not number the same images: "
            "unpack the original archive again"
        )
    return {
        split: tuple(Record(f"images/{path}", int(labels[i])) for i, path in paths.items() if training[i] == flag)
        for split, flag in (("train", "1"), ("test", "0"))
    }
