"""One sentence for every wrong name or type: what came, what was expected, what was perhaps meant."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any


def unknown(kind: str, name: object, options: Iterable[str]) -> ValueError:
    """Return (not raise) the error for a name that is none of `options`, with the nearest one."""
    options = sorted(options)
    nearest = get_close_matches(str(name), options, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    shown = ", ".join(options[:12]) + (", ..." if len(options) > 12 else "")
    return ValueError(f"unknown {kind} {name!r}: {hint}known are {shown}")


def check_choice(kind: str, name: object, options: Iterable[str]) -> None:
    """Raise `unknown` unless `name` is one of `options`."""
    options = tuple(options)
    if name not in options:
        raise unknown(kind, name, options)


def check_types(values: Mapping[str, Any], /, **types: type) -> None:
    """Raise ValueError unless each named value is of its type; true is no number.

    Args:
        values: what came, by name: `globals()` in a notebook, whose parameters papermill sets unchecked.
        types: what is expected, as in seeds=int.
    """
    for name, kind in types.items():
        value = values[name]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"{name!r} takes {kind.__name__}, got {value!r}")
