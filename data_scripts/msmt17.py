"""MSMT17: to be requested from its owners. Its miniatures hold drawn people, and may be passed on."""

from collections.abc import Iterator
from pathlib import Path

from data_scripts.common import PEOPLE, README, File, Shot, encode, people, text, verifier, write_archive
from data_scripts.sources import Download, Source
from dcal_lite.data.layout import Layout
from dcal_lite.data.msmt17 import LAYOUTS

ARCHIVES = {"V1": "MSMT17_V1.tar.gz", "V2": "MSMT17_V2.zip"}  # which formats the owners send is known second hand
verify = verifier("msmt17", LAYOUTS)
SOURCE = Source(
    title="MSMT17",
    access="on request",
    licence="research only (second hand)",
    size="unknown",
    page="http://www.pkuvmc.com/dataset.html",  # known from issues 2 and 3 of yxgeee/MMT; often unreachable
    how="ask its owners, by their page or the address in their paper, for V1, or for V2, which has masked faces and "
    "gives lower scores",
    files=tuple(
        Download(ARCHIVES[version], folder=layout.folder, holds=layout.holds) for version, layout in LAYOUTS.items()
    ),
    versions=True,
)


def miniature(root: Path, *, seed: int = 0, labels: int = 5) -> str:
    """Write a small archive in the layout of each version.

    Args:
        root: folder to write `MSMT17_V1.tar.gz` and `MSMT17_V2.zip` to.
        seed: of the drawn people.
        labels: number of people, to train with and to find.

    Raises:
        ValueError: there is an archive of this name already, or `labels` is out of range.
    """
    shots = people("msmt17", seed, labels)
    return "\n".join(
        write_archive(root / ARCHIVES[version], _files(layout, shots), folder=layout.folder)
        for version, layout in LAYOUTS.items()
    )


def _files(layout: Layout, shots: dict[str, list[Shot]]) -> Iterator[File]:
    yield "README.md", README.format(title=layout.title, **PEOPLE).encode()
    train, test = layout.holds
    lists = {
        "list_train": [shot for shot in shots["train"] if shot.number % 4],
        "list_val": [shot for shot in shots["train"] if not shot.number % 4],
        "list_query": shots["query"],
        "list_gallery": [shot for shot in shots["gallery"] if shot.label],  # no distractors
    }
    first = {train: 1, test: min(shot.label for shot in shots["query"])}  # both count identities from 0
    for name, chosen in lists.items():
        folder = train if name in ("list_train", "list_val") else test
        lines = [_line(shot, shot.label - first[folder]) for shot in chosen]
        yield f"{name}.txt", text(lines)
        for line, shot in zip(lines, chosen, strict=True):
            yield f"{folder}/{line.partition(' ')[0]}", encode(shot.image, (70, 160))


def _line(shot: Shot, label: int) -> str:
    extra = "_ex" if shot.number % 8 == 5 else ""  # some names of the real one end so
    place = f"{shot.number % 1000:03d}_{shot.camera:02d}_0303morning_{shot.number:04d}_0{extra}"
    return f"{label:04d}/{label:04d}_{place}.jpg {label}"
