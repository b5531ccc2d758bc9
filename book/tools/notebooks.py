"""The book's pages, and the form in which its notebooks are stored.

Each notebook starts with the same code cell. Its text has its home here, the repository's address and branch in
`_config.yml`.
`python book/tools/notebooks.py`, a part of `make fmt`, brings all notebooks into this form.
"""

from pathlib import Path

import nbformat
import yaml

ROOT = Path(__file__).resolve().parents[2]
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text())
PAGES = [TOC["root"], *(chapter["file"] for part in TOC["parts"] for chapter in part["chapters"])]
PATHS = sorted(path for path in (ROOT / "book").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)

FIRST_CELL = """\
# On Colab: fetch this version of the book and install it. Anywhere else: nothing.
import sys

if "google.colab" in sys.modules:
    source = "--depth 1 --branch {branch} {url} dcal"
    %cd -q /content
    !test -d dcal || git clone --quiet {{source}}
    %cd -q dcal
    %pip install --quiet --editable .

import dcal_lite as dl
"""


def first_cell() -> str:
    """The cell's source, with the address and the branch that the page's Colab button opens."""
    repository = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]
    return FIRST_CELL.format(url=repository["url"], branch=repository["branch"]).strip()


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """The code cells of a notebook, in order."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def is_compared(cell: nbformat.NotebookNode) -> bool:
    """Whether `make test` compares the cell's outputs with the stored ones."""
    return "nbval-check-output" in cell.metadata.get("tags", [])


def tidy(path: Path) -> None:
    """Write the first code cell into a notebook, and keep outputs and execution counts of compared cells only."""
    notebook = nbformat.read(path, as_version=4)
    first, *others = code_cells(notebook) or [None]
    if first is None or (first.source.strip() and "google.colab" not in first.source):
        raise ValueError(
            f"{path}: expected an empty first code cell, or the set-up for Colab; put one before the others"
        )
    first.source = first_cell()
    first.metadata["tags"] = first.metadata.get("tags") or ["hide-input"]
    for cell in [first, *others]:
        cell.metadata.pop("keep_output", None)
        cell.execution_count = None
        if is_compared(cell):
            cell.metadata["keep_output"] = True
            cell.execution_count = 1  # nbval takes a cell without a count for one that was never run
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = cell.execution_count
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for path in PATHS:
        tidy(path)
