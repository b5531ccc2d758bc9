"""How a dataset lies on the disk: finding its folder, unpacking it, reading its file names and its lists."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dcal_lite.data.archives import data_root, unpack
from dcal_lite.data.records import Record


@dataclass(frozen=True)
class Layout:
    """The folder of a dataset, and the names of its images.

    Args:
        title: the dataset's name as people write it.
        folder: its top folder, named as in its archive.
        holds: folders and files that are in it, or it is something else.
        example: the name of an image.
        pattern: what all names match; named groups are the numbers of a `Record` (label, camera, ...).
        hint: what a name that does not match tells.
    """

    title: str
    folder: str
    holds: tuple[str, ...]
    example: str = ""
    pattern: str = ""
    hint: str = "this is another dataset or a changed copy"

    def find(self, root: str | Path | None, archive: str | Path | None = None) -> Path:
        """The dataset's folder: `root` itself or in it.

        Args:
            root: as in `data_root`.
            archive: to be unpacked there, unless that was done before.

        Raises:
            ValueError: the archive is missing, damaged, unsafe or another one.
        """
        root = data_root(root)
        here = root.name == self.folder or all((root / name).exists() for name in self.holds)
        folder = root if here else root / self.folder
        return folder if archive is None else unpack(archive, folder, holds=self.holds)

    def records(self, folder: Path, part: str) -> tuple[Record, ...]:
        """Records of the images in `folder / part`, by name; other files and hidden ones are passed over.

        Raises:
            ValueError: there is no such folder, or names do not match.
        """
        if not (folder / part).is_dir():
            raise self.missing("folder", folder / part)
        suffix = Path(self.example).suffix
        names = (path.name for path in (folder / part).iterdir() if path.suffix == suffix)
        names = sorted(name for name in names if not name.startswith("."))
        unlike = [name for name in names if self._match(name) is None]
        if len(unlike) > 1:
            raise ValueError(
                f"{len(unlike):,} of {len(names):,} names in {folder / part}, first {unlike[0]!r}, are not like "
                f"{self.example}: {self.hint}"
            )
        return tuple(self.record(f"{part}/{name}") for name in names)

    def record(self, source: str) -> Record:
        """The record that an image's name tells; `source`: its path below the dataset's folder."""
        match = self._match(source.rpartition("/")[2])
        if match is None:
            raise ValueError(f"{source!r} is not a name like {self.example}: {self.hint}")
        return Record(source, **{field: int(number) for field, number in match.groupdict().items()})

    def _match(self, name: str) -> re.Match[str] | None:
        return re.fullmatch(self.pattern, name, re.ASCII)

    def rows(self, folder: Path, name: str, pattern: str, example: str) -> list[tuple[str, ...]]:
        """The groups of `pattern` in every line of the text file `folder / name`; empty lines are passed over.

        Raises:
            ValueError: there is no such file, it is no text, or a line does not match.
        """
        lines = enumerate(self._text(self.file(folder, name)).splitlines(), start=1)
        return [self._row(f"line {i} of {folder / name}", line, pattern, example) for i, line in lines if line.strip()]

    def _row(self, where: str, line: str, pattern: str, example: str) -> tuple[str, ...]:
        match = re.fullmatch(pattern, line.strip(), re.ASCII)
        if match is None:
            raise ValueError(f"{where} is {line[:80]!r}, not like {example!r}: {self.hint}")
        return match.groups()

    def file(self, folder: Path, name: str) -> Path:
        """The path of a file that must be in `folder`.

        Raises:
            ValueError: there is no such file.
        """
        if not (folder / name).is_file():
            raise self.missing("file", folder / name)
        return folder / name

    def _text(self, path: Path) -> str:
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not text ({error.reason}): unpack the original archive again") from error

    def missing(self, kind: str, path: Path) -> ValueError:
        """Return (not raise) the error for a file or folder that is not there."""
        return ValueError(
            f"there is no {kind} {path}: pass root=, or set DCAL_DATA to, the folder that holds {self.folder}, "
            f"or pass archive=, the archive of {self.title} to unpack there"
        )


def train_and_val(parts: Mapping[str, tuple[Record, ...]], protocol: str) -> dict[str, tuple[Record, ...]]:
    """The parts train, val and test by the protocol "trainval" (validation images are training images) or "train"."""
    if protocol == "train":
        return dict(parts)
    return {"train": parts["train"] + parts["val"], "test": parts["test"]}


def without(records: Iterable[Record], label: int) -> tuple[Record, ...]:
    """The records of all other labels."""
    return tuple(record for record in records if record.label != label)
