"""DukeMTMC-reID: withdrawn in 2019. Its miniature holds drawn people, and may be passed on."""

from collections.abc import Iterator
from pathlib import Path

from data_scripts.common import PEOPLE, README, File, encode, people, verifier, write_archive
from dcal_lite.data.dukemtmcreid import LAYOUT, SPLITS

verify = verifier("dukemtmcreid", {"": LAYOUT})


def miniature(root: Path, *, seed: int = 0, labels: int = 5) -> str:
    """Write a small archive in the layout of DukeMTMC-reID.

    Args:
        root: folder to write `DukeMTMC-reID.zip` to.
        seed: of the drawn people.
        labels: number of people, to train with and to find.

    Raises:
        ValueError: there is an archive of this name already, or `labels` is out of range.
    """
    return write_archive(root / f"{LAYOUT.folder}.zip", _files(seed, labels), folder=LAYOUT.folder)


def _files(seed: int, labels: int) -> Iterator[File]:
    yield "README.md", README.format(title=LAYOUT.title, **PEOPLE).encode()
    for split, shots in people("dukemtmcreid", seed, labels).items():
        for i, shot in enumerate(shots):
            label = shot.label or 9000 + len(shots) - i  # distractors, the last, have identities of their own
            name = f"{label:04d}_c{shot.camera}_f{shot.number:07d}.jpg"
            yield f"{SPLITS[split]}/{name}", encode(shot.image, (60, 130))  # boxes are of many sizes
