"""Results: what finished runs say, gathered from their files."""

import json
from pathlib import Path
from typing import Any


def load_results(folder: str | Path, **where: Any) -> list[dict[str, Any]]:
    """Read every `result.json`, whatever it was renamed to, in a folder and the folders below.

    Args:
        folder: of one run, of many (`runs`), or of published results (`book/results/runs`).
        where: fields and the values they must have, as in `recipe="rga-reid", dataset="market1501"`.

    Returns:
        A row for each run, in the order of the files' names: the fields of the file, the scores (in [0, 1]) among them.

    Raises:
        ValueError: a file is not what `fit` writes.
    """
    rows = [_row(path) for path in sorted(Path(folder).rglob("*.json"))]
    return [row for row in rows if all(row.get(key) == value for key, value in where.items())]


def _row(path: Path) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        return result | result.pop("scores")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not the result of a run ({error!r}): remove it from {path.parent}") from error
