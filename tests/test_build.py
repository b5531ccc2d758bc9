"""Building the book: what fails is shown, named and run again, and nothing else is lost."""

import asyncio

import nbformat
import pytest
from jupyter_cache import get_cache

from book.tools import build, warm_kernels

CELLS = {
    "good": ["1 + 1", "print('done')"],
    "bad": ["print('before')", "1 / 0", "print('never')"],
    "dead": ["import os", "", "os._exit(1)"],
    "meant": ["# raises-exception\n1 / 0", "print('after')"],
}


@pytest.fixture
def book(tmp_path, monkeypatch):
    """A book of four small notebooks, and its cache; returns what builds it."""
    for name, sources in CELLS.items():
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
        for cell in notebook.cells:
            cell.metadata["tags"] = ["raises-exception"] * ("raises" in cell.source)
        notebook.cells[-1].outputs = [nbformat.v4.new_output("stream", text="stored")]
        nbformat.write(notebook, tmp_path / f"{name}.ipynb")
    (tmp_path / "_config.yml").write_text("execute: {timeout: 60}", encoding="utf-8")
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setattr(build, "BUILD", tmp_path / "_build")
    monkeypatch.setattr(build, "PAGES", [*CELLS, "prose"])
    monkeypatch.setattr(warm_kernels, "PRELOADED", ["ipykernel.kernelapp"])
    return get_cache(tmp_path / "_build" / ".jupyter_cache")


@pytest.mark.posix
@pytest.mark.parametrize("warm", [False, pytest.param(True, marks=pytest.mark.skipif(
    not warm_kernels.AVAILABLE, reason="forks kernels on Linux only"))])  # fmt: skip
def test_every_notebook_runs_and_what_failed_is_named_and_runs_again(book, warm, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(warm_kernels, "AVAILABLE", warm)
    assert build.due(book) == ["meant", "dead", "bad", "good"]
    failures = asyncio.run(build.run_all(book, build.due(book)))
    assert [str(failure) for failure in failures] == [
        "bad.ipynb, code cell 2: ZeroDivisionError: division by zero",
        "dead.ipynb, code cell 3: DeadKernelError: Kernel died",
    ]
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(",")[0] for line in lines] == [f"notebook  {i} of 4" for i in (1, 2, 3, 4)]
    assert sum("FAILED" in line for line in lines) == 2 and lines[-1].endswith("the rest takes about 0 s")

    source = nbformat.read(tmp_path / "bad.ipynb", as_version=4)
    _, shown = book.merge_match_into_notebook(source)  # what the page shows
    assert shown.cells[0].outputs[0].text == "before\n" and shown.cells[1].outputs[0].ename == "ZeroDivisionError"
    assert not shown.cells[2].outputs

    page = tmp_path / "_build" / ".doctrees" / "bad.doctree"
    page.parent.mkdir()
    page.touch()
    assert build.due(book) == ["dead", "bad"] and not page.exists()  # so that Sphinx builds the page again
    source.cells[1].source = "2"
    nbformat.write(source, tmp_path / "bad.ipynb")
    assert [failure.page for failure in asyncio.run(build.run_all(book, build.due(book)))] == ["dead"]
    assert build.due(book) == ["dead"]
