"""Where each dataset comes from, under which terms, and the table of all: `python -m data_scripts list`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Literal

from dcal_lite.data.official import COUNTS, Counts

_ROW = "{:16}{:>9}{:>9}{:>15}  {:12}{}"
_HEAD = _ROW.format("dataset", "download", "images", "labels", "got", "licence")
_FOOT = """
images: of all parts together. labels: classes, or people (vehicles) of training + queries.
script: `python -m data_scripts fetch DATASET --root DIR`; for the others see `list DATASET`.
second hand: not seen on a page or in a file of the owners."""


@dataclass(frozen=True)
class Download:
    """A file that a dataset is made of.

    Args:
        name: its path below the folder of all datasets.
        checksum: "sha256:..." or "md5:..."; empty where none is known, and `verify` is the only check.
        urls: its owner's address, then mirrors; none where no script may fetch it.
        folder: for an archive, the folder that it is unpacked to, named like the top one in it.
        holds: what must be in that folder, as in `dcal_lite.data.archives.unpack`.
    """

    name: str
    checksum: str = ""
    urls: tuple[str, ...] = ()
    folder: str = ""
    holds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """Where a dataset comes from.

    Args:
        title: the dataset's name as people write it.
        access: how it is got.
        licence: its terms in a few words.
        size: of the files to download; "unknown" where no source tells.
        page: where its owners, or others, tell about it.
        how: how to get it, where no script may; half a sentence.
        files: what it is made of.
        versions: the files are versions of the dataset, and one of them is enough.
    """

    title: str
    access: Literal["script", "by hand", "on request", "withdrawn"]
    licence: str
    size: str
    page: str
    files: tuple[Download, ...]
    how: str = ""
    versions: bool = False

    def by_hand(self, missing: Iterable[Download], root: Path) -> ValueError:
        """Return (not raise) the error that says how to get files that no script may fetch."""
        names = f" {'or' if self.versions else 'and'} ".join(file.name for file in missing)
        return ValueError(
            f"no script fetches {self.title}: {self.how} (see {self.page}); put {names} into {root}, then fetch again"
        )


def table(sources: Mapping[str, Source]) -> str:
    """All datasets, a line for each official count."""
    rows = [_row(key, parts, source) for name, source in sources.items() for key, parts in _counts(name).items()]
    return "\n".join([_HEAD, *rows, _FOOT])


def _counts(name: str) -> dict[str, Counts]:
    return {key: parts for key, parts in COUNTS.items() if key.partition("/")[0] == name}


def _row(key: str, parts: Counts, source: Source) -> str:
    labels = [n for i, (part, (_, n)) in enumerate(parts.items()) if i == 0 or "query" in part]
    images = sum(n for n, _ in parts.values())
    return _ROW.format(
        key, source.size, f"{images:,}", " + ".join(f"{n:,}" for n in labels), source.access, source.licence
    )


def details(name: str, source: Source) -> str:
    """One dataset: the counts of its parts, its terms, how it is got, its files."""
    rows = [
        f"{key:17}{part:20}{images:8,} images{labels:7,} labels"
        for key, parts in _counts(name).items()
        for part, (images, labels) in parts.items()
    ]
    about = {"licence": source.licence, "download": source.size, "page": source.page, "got": source.access}
    return "\n".join([
        source.title,
        *rows,
        *(f"{key:17}{value}" for key, value in about.items()),
        *([fill(source.how, 100, initial_indent=" " * 17, subsequent_indent=" " * 17)] if source.how else []),
        *(line for file in source.files for line in _file(file)),
    ])  # fmt: skip


def _file(file: Download) -> list[str]:
    unpacked = f", unpacked to {file.folder}" if file.folder else ""
    checked = file.checksum or "no checksum known: `verify` is the check"
    return [f"{'file':17}{file.name}{unpacked}", *(f"{'':17}{line}" for line in (checked, *file.urls))]
