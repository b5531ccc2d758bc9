"""What differs between terms: the tasks themselves, so that last year's answers fail.

The notebooks in `source/` are the public sample. `variants/psN.yaml` lists choices. The first option of a choice holds
pieces of the sample's text and code, each further option what stands in their place. A course draws from the further
options only, by a secret.
"""

import random
import re
from pathlib import Path

import nbformat
import yaml

HERE = Path(__file__).resolve().parent
CHOICES: dict[str, dict[str, list[list[str]]]] = {
    path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(HERE.glob("variants/*.yaml"))
}


def draw(name: str, secret: str, term: int) -> dict[str, int]:
    """Return which option of each choice a term has: never the sample's, and never the one of the term before."""
    orders = {choice: list(range(1, len(options))) for choice, options in CHOICES[name].items()}
    for choice, order in orders.items():
        random.Random(f"{secret} {name} {choice}").shuffle(order)
    return {choice: order[term % len(order)] for choice, order in orders.items()}


def render(name: str, drawn: dict[str, int], seed: int = 0) -> nbformat.NotebookNode:
    """Return a problem set with its solutions and hidden tests.

    Args:
        name: problem set, "ps1".
        drawn: option of each choice; the sample's where a choice is left out.
        seed: of the hidden tests' data.
    """
    notebook = nbformat.read(HERE / "source" / name / f"{name}.ipynb", as_version=4)
    pieces = {"SEED = 2022": f"SEED = {seed}"}
    for choice, option in drawn.items():
        options = CHOICES[name][choice]
        pieces |= dict(zip(options[0], options[option], strict=True))
    found = re.compile("|".join(map(re.escape, sorted(pieces, key=len, reverse=True))))
    for cell in notebook.cells:
        cell.source = found.sub(lambda match: pieces[match[0]], cell.source)
    return notebook
