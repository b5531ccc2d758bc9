"""One sentence for every wrong name: what came, what was expected, what was perhaps meant."""

from collections.abc import Iterable
from difflib import get_close_matches


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
