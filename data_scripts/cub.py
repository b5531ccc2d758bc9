"""CUB-200-2011: research and education only. Its miniature holds drawn birds, and may be passed on."""

from collections.abc import Iterator
from pathlib import Path

from data_scripts.common import BIRDS, README, File, birds, encode, numbered, text, verifier, write_archive
from dcal_lite.data.cub import LAYOUT
from dcal_lite.data.plumage import SPECIES

verify = verifier("cub", {"": LAYOUT})


def miniature(root: Path, *, seed: int = 0, labels: int = 3) -> str:
    """Write a small archive in the layout of CUB-200-2011, without its parts and attributes.

    Args:
        root: folder to write `CUB_200_2011.tgz` to.
        seed: of the drawn birds.
        labels: number of classes.

    Raises:
        ValueError: there is an archive of this name already, or `labels` is out of range.
    """
    return write_archive(root / f"{LAYOUT.folder}.tgz", _files(seed, labels), folder=LAYOUT.folder)


def _files(seed: int, labels: int) -> Iterator[File]:
    yield "README", README.format(title=LAYOUT.title, **BIRDS).encode()
    shots = [(shot, split) for split, part in birds("cub", seed, labels).items() for shot in part]
    shots.sort(key=lambda pair: (pair[0].label, pair[0].number))  # the two splits take turns in the lists
    names = {shot.label: SPECIES[(shot.label - 1) % len(SPECIES)].family.name.title() for shot, _ in shots}
    folders = {label: f"{label:03d}.{name}_{label}" for label, name in names.items()}
    paths = [
        f"{folders[shot.label]}/{names[shot.label]}_{shot.number:04d}_{i}.jpg" for i, (shot, _) in enumerate(shots)
    ]
    yield "classes.txt", text(numbered(folders.values()))
    yield "images.txt", text(numbered(paths))
    yield "image_class_labels.txt", text(numbered(str(shot.label) for shot, _ in shots))
    yield "train_test_split.txt", text(numbered(str(int(split != "test")) for _, split in shots))
    yield "bounding_boxes.txt", text(numbered("10.0 10.0 80.0 80.0" for _ in shots))  # made up
    for path, (shot, _) in zip(paths, shots, strict=True):
        yield f"images/{path}", encode(shot.image, (120, 100))
