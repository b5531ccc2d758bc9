"""How the book's pages are written and stored. `make test` also runs every notebook, by nbval."""

import ast
import inspect
import re
from collections import Counter
from pathlib import Path

import nbformat
import pytest
import yaml

import dcal_lite as dl
from tests.notebooks import PATHS, ROOT, code_cells, first_cell, is_compared
from tests.offline import foreign_requests

CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text())
ADDRESS, BRANCH = CONFIG["repository"]["url"], CONFIG["repository"]["branch"]
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text())
PAGES = [TOC["root"], *(chapter["file"] for part in TOC["parts"] for chapter in part["chapters"])]
MARKDOWN = sorted((ROOT / "book").rglob("*.md"))

notebooks = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def python(source: str) -> str:
    """A cell's source without the lines that are IPython's, not Python's."""
    return "\n".join(re.sub(r"^(\s*)[!%].*", r"\1pass", line) for line in source.splitlines())


@pytest.mark.parametrize("page", PAGES)
def test_each_page_of_the_contents_has_one_source(page):
    assert [suffix for suffix in (".md", ".ipynb") if (ROOT / (page + suffix)).is_file()] in ([".md"], [".ipynb"])


def test_every_page_is_in_the_contents():
    sources = {str(path.relative_to(ROOT).with_suffix("")) for path in [*PATHS, *MARKDOWN]}
    assert sources == set(PAGES)


def test_the_first_cell_fetches_what_the_colab_button_opens():
    assert CONFIG["launch_buttons"]["colab_url"]
    assert f" --branch {BRANCH} {ADDRESS} " in first_cell()


def test_the_address_has_one_home():
    top = [path for path in ROOT.glob("*") if path.suffix in {".md", ".toml", ".yml", ".cff"}]
    holders = [path for path in [*top, *MARKDOWN, ROOT / "Makefile"] if ADDRESS in path.read_text(encoding="utf-8")]
    assert holders == [ROOT / "_config.yml"]


@notebooks
def test_first_code_cell_is_the_set_up(path):
    assert code_cells(read(path))[0].source == first_cell()


@notebooks
def test_outputs_are_stored_only_where_they_are_compared(path):
    for cell in code_cells(read(path)):
        stored = bool(cell.outputs), bool(cell.execution_count), bool(cell.metadata.get("keep_output"))
        assert set(stored) == {is_compared(cell)}, cell.source


@notebooks
def test_cells_are_short(path):
    longest = max(code_cells(read(path)), key=lambda cell: len(cell.source.splitlines()))
    assert len(longest.source.splitlines()) <= 30, longest.source


@notebooks
def test_images_have_alternative_text(path):
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    assert not images_without_text(text)


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: path.stem)
def test_images_of_pages_have_alternative_text(path):
    assert not images_without_text(path.read_text(encoding="utf-8"))


def images_without_text(text: str) -> list[str]:
    """The images of a Markdown text that say nothing to a reader who cannot see them."""
    plain = re.findall(r"!\[\s*\]\([^)]*\)", text)
    html = [tag for tag in re.findall(r"<img[^>]*>", text) if not re.search(r"alt=[\"'][^\"']", tag)]
    fences = re.findall(r"^[`:]{3,}\{(?:image|figure)\}.*?^[`:]{3,}$", text, flags=re.MULTILINE | re.DOTALL)
    return [*plain, *html, *(fence for fence in fences if not re.search(r"^:?alt: *\S", fence, flags=re.MULTILINE))]


def test_images_without_text_are_found():
    bad = ["![](a.png)", "<img src='a.png'>", "```{figure} a.png\n:width: 3\nA caption\n```"]
    good = ["![a map](a.png)", "<img alt='a map' src='a.png'>", "```{figure} a.png\n:alt: a map\nA caption\n```"]
    assert images_without_text("\n\n".join([*bad, *good])) == bad


def syntax(path: Path) -> list[ast.AST]:
    """All nodes of the syntax trees of a notebook's code cells."""
    return [node for cell in code_cells(read(path)) for node in ast.walk(ast.parse(python(cell.source)))]


def test_no_function_stands_in_two_notebooks():
    names = Counter()
    for path in PATHS:
        names.update({node.name for node in syntax(path) if isinstance(node, ast.FunctionDef)})
    assert [name for name, count in names.items() if count > 1] == []


@notebooks
def test_notebooks_use_public_names_only(path):
    names = [node.attr for node in syntax(path) if isinstance(node, ast.Attribute)]
    names += [alias.name for node in syntax(path) if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert [name for name in names if re.match(r"_[^_]", name)] == []


SHOWN = r"^```\{literalinclude\} (\S+)\n:language: python\n:pyobject: (\S+)\n```$"  # library source in a chapter


def shown_source(file: Path, name: str) -> list[str]:
    """The lines of a class, function or method of a file, as a chapter shows them."""
    text = file.read_text(encoding="utf-8")
    node = ast.parse(text)
    for part in name.split("."):
        node = next(child for child in node.body if getattr(child, "name", None) == part)
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return text.splitlines()[first - 1 : node.end_lineno]


@notebooks
def test_shown_source_fits_the_page(path):
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    shown = re.findall(SHOWN, text, flags=re.MULTILINE)
    assert len(shown) == text.count("{literalinclude}"), "source is shown as :language: python, by :pyobject:"
    for file, name in shown:
        assert [line for line in shown_source(path.parent / file, name) if len(line) > 100] == []


def test_requests_to_other_hosts_are_found():
    own = '<script src="_static/a.js"></script><link rel="next" href="b.html"><a href="https://example.org">x</a>'
    assert foreign_requests(own) == []
    foreign = '<script src="https://cdn.org/a.js"></script><img src="//b.org/c.png"><link rel="stylesheet" href="http://d.org/e.css">'
    assert foreign_requests(foreign) == ["https://cdn.org/a.js", "//b.org/c.png", "http://d.org/e.css"]


def test_the_reference_names_the_public_face():
    page = (ROOT / "book/api.md").read_text(encoding="utf-8")
    named = re.findall(r"^\.\. auto(?:function|class):: (\w+)$", page, re.M)
    public = {name for name, value in vars(dl).items() if name[0] != "_" and not inspect.ismodule(value)}
    assert sorted(named) == sorted(public)
