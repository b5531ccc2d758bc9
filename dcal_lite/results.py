"""Results: what finished runs say, gathered from their files, and what their differences mean."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit  # scipy.stats takes a second to import


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


class Interval(NamedTuple):
    """A mean, and the bounds of its 95 % confidence interval; NaN where there is but one value."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        if self.low != self.low:  # NaN
            return f"{self.mean:.1f} (one seed)"
        return f"{self.mean:.1f} ± {(self.high - self.low) / 2:.1f}"


def interval(values: Sequence[float]) -> Interval:
    """The mean over seeds, with Student's interval: what other seeds should give on average.

    Raises:
        ValueError: there are no values.
    """
    if len(values) == 0:
        raise ValueError("values of at least one seed expected, got none")
    mean = float(np.mean(values))
    if len(values) == 1:
        return Interval(mean, np.nan, np.nan)
    half = float(np.std(values, ddof=1) / len(values) ** 0.5 * stdtrit(len(values) - 1, 0.975))
    return Interval(mean, mean - half, mean + half)


def compare(scores: Mapping[str, Mapping[int, float]]) -> list[dict[str, Any]]:
    """Means of several methods, and how each differs from the first, seed by seed.

    Args:
        scores: method -> seed -> score.

    Returns:
        A row a method: `method`, `seeds` (how many), `score` (an `Interval`), `difference` to the
        first method over the seeds that both have (an `Interval`, or None where there is no such
        seed and for the first itself).
    """
    (_, first), *_ = scores.items()
    rows = []
    for i, (method, by_seed) in enumerate(scores.items()):
        paired = [by_seed[seed] - first[seed] for seed in by_seed if seed in first]
        difference = interval(paired) if i and paired else None
        row = {"method": method, "seeds": len(by_seed), "score": interval(list(by_seed.values()))}
        rows.append(row | {"difference": difference})
    return rows


def _row(path: Path) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        return result | result.pop("scores")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not the result of a run ({error!r}): remove it from {path.parent}") from error
