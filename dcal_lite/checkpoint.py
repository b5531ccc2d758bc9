"""Files that appear whole or not at all, and checkpoints that survive a kill at any moment.

Every file is written beside its place, flushed to the disk and renamed onto it; a rename is atomic.
A checkpoint folder keeps the last two checkpoints, so that a damaged newest one does not cost the run.
"""

import json
import os
import re
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

_NAME = re.compile(r"epoch-(\d{4,})-step-(\d{6,})\.pt")


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on leaving, flush it to disk and rename it to `path`.

    If the body raises, or the process dies, `path` is as it was before.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        flush(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Write to the disk what the system still keeps of a file in memory."""
    with path.open("r+b") as file:  # on Windows, a file that is only read cannot be flushed
        os.fsync(file.fileno())


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, whole or not at all; the bytes are the same on every system."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | Path, content: Any) -> None:
    """Write a JSON file, indented, whole or not at all. NaN is refused: it is no JSON."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_weights(path: str | Path, weights: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a .safetensors file with string metadata, whole or not at all."""
    with atomic_path(path) as temporary:
        save_file({key: value.detach().cpu().contiguous() for key, value in weights.items()}, temporary, dict(metadata))


def save_checkpoint(folder: str | Path, epoch: int, step: int, state: Mapping[str, Any]) -> None:
    """Save `state` and delete all but the last two checkpoints.

    Args:
        folder: the run's `last/`.
        epoch, step: completed epochs, and completed steps of the next one.
        state: tensors, numbers, strings and containers of these: what `torch.load(weights_only=True)` reads.

    Raises:
        OSError: the file cannot be written.
    """
    folder = Path(folder)
    path = folder / f"epoch-{epoch:04d}-step-{step:06d}.pt"
    with atomic_path(path) as temporary:
        try:
            torch.save(dict(state), temporary)
        except RuntimeError as error:  # what PyTorch makes of an OSError
            reason = str(error).partition("\n")[0]
            raise OSError(f"cannot write {path} ({reason}): is the disk full? The checkpoint before is kept") from error
    for old in _checkpoints(folder)[2:]:
        old.unlink()


def load_checkpoint(folder: str | Path, *, map_location: str | torch.device = "cpu") -> dict[str, Any] | None:
    """Return the newest readable checkpoint of `folder`, or None where there is none.

    A damaged file is named in a warning, and the one before is taken.
    """
    found = _checkpoints(Path(folder))
    for path in found:
        try:
            with zipfile.ZipFile(path) as archive:  # torch.load checks no checksum, the archive has one a file
                if archive.testzip() is not None:
                    raise zipfile.BadZipFile("checksum")
            return torch.load(path, map_location=map_location, weights_only=True)
        except (zipfile.BadZipFile, OSError, EOFError, RuntimeError) as error:
            instead = "beginning anew" if path == found[-1] else "falling back to the one before"
            warnings.warn(f"checkpoint {path.name} is damaged ({error}); {instead}", stacklevel=2)
    return None


def _checkpoints(folder: Path) -> list[Path]:
    """The folder's checkpoints, newest first; leftovers of a killed write don't match the name."""
    found = [(int(match[1]), int(match[2]), path) for path in folder.glob("epoch-*.pt")
             if (match := _NAME.fullmatch(path.name))]  # fmt: skip
    return [path for *_, path in sorted(found, reverse=True)]


def remove_leftovers(folder: str | Path) -> None:
    """Delete the temporary files that a killed process left in `folder` and its `last/`."""
    for path in (*Path(folder).glob(".*.tmp"), *Path(folder).glob("last/.*.tmp")):
        path.unlink()
