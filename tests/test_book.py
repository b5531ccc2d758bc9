"""How the book's pages are written and stored. `make test` also runs every notebook, by nbval."""

import ast
import inspect
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from importlib.metadata import files, metadata
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import yaml
from papermill import inspect_notebook
from scipy import stats

import dcal_lite as dl
from book.tools.notebooks import PAGES, PATHS, ROOT, code_cells, first_cell, is_compared
from book.tools.offline import foreign_requests
from dcal_lite.ledger import CLAIMS

CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text())
ADDRESS, BRANCH = CONFIG["repository"]["url"], CONFIG["repository"]["branch"]
MARKDOWN = sorted((ROOT / "book").rglob("*.md"))

notebooks = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def prose(path: Path) -> str:
    """What a notebook says outside of its code."""
    return "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")


def python(source: str) -> str:
    """A cell's source without the lines that are IPython's, not Python's."""
    return "\n".join(re.sub(r"^(\s*)[!%].*", r"\1pass", line) for line in source.splitlines())


@pytest.mark.parametrize("page", PAGES)
def test_each_page_of_the_contents_has_one_source(page):
    assert [suffix for suffix in (".md", ".ipynb") if (ROOT / (page + suffix)).is_file()] in ([".md"], [".ipynb"])


def test_every_page_is_in_the_contents():
    chapters = [path for path in [*PATHS, *MARKDOWN] if "assignments" not in path.parts]  # those hold solutions
    sources = {str(path.relative_to(ROOT).with_suffix("")) for path in chapters}
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
    text = prose(path)
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
def test_notebooks_import_nothing_of_the_tests(path):
    modules = {node.module for node in syntax(path) if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in syntax(path) if isinstance(node, ast.Import) for alias in node.names}
    assert not {module for module in modules if module.split(".")[0] == "tests"}


@notebooks
def test_notebooks_use_public_names_only(path):
    names = [node.attr for node in syntax(path) if isinstance(node, ast.Attribute)]
    names += [alias.name for node in syntax(path) if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert [name for name in names if re.match(r"_[^_]", name)] == []


EXPERIMENTS = sorted((ROOT / "book/experiments").glob("*.ipynb"))


def cells_from_parameters(path: Path) -> list[nbformat.NotebookNode]:
    """The code cells of an experiment, from the one on that papermill may replace."""
    cells = code_cells(read(path))
    tagged = [cell.metadata.get("tags") == ["parameters"] for cell in cells]
    return cells[tagged.index(True) :]


def run_with(given: dict[str, object], cells: list[nbformat.NotebookNode]) -> None:
    """Run cells as papermill does: the given parameters come after the first one."""
    space = {"dl": dl}
    exec(cells[0].source, space)
    space |= given
    for cell in cells[1:]:
        exec(python(cell.source), space)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_papermill_reads_type_and_help_of_every_parameter(path):
    assigned = {node.target.id: node.annotation.id for node in ast.parse(cells_from_parameters(path)[0].source).body}
    found = inspect_notebook(path)
    assert {name: parameter["inferred_type_name"] for name, parameter in found.items()} == assigned
    assert [name for name, parameter in found.items() if len(parameter["help"]) < 10] == []


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("train", {"recipe": "dcal-ried"}, "did you mean 'dcal-reid'"),
        ("train", {"preset": "smok"}, "did you mean 'smoke'"),
        ("train", {"overrides": "preset=smok"}, "did you mean 'smoke'"),
        ("train", {"dataset": "markt1501"}, "did you mean 'market1501'"),
        ("train", {"overrides": "epochs"}, "key=value expected, got 'epochs'"),
        ("train", {"progress": "maybe"}, "'progress' takes bool, got 'maybe'"),
        ("train", {"weights": "none.safetensors"}, "weight file 'none.safetensors' not found"),
        ("evaluate", {"model": "none"}, "a finished run's folder or one of .*promenade-dcal.* expected, got 'none'"),
        ("evaluate", {"model": "plumage-dcal", "rerank": True}, "distance and rerank are for re-ID"),
        ("evaluate", {"distance": "manhattan"}, "unknown distance 'manhattan'"),
        ("ablate", {"score": "rank2"}, "unknown score 'rank2': did you mean 'rank"),
        ("ablate", {"seeds": "three"}, "'seeds' takes int, got 'three'"),
        ("ablate", {"seeds": 0}, "at least one variant and one seed"),
        ("ablate", {"variants": {"SA": "model_args.branches=[sa]"}}, "'SA' takes dict"),
        ("ablate", {"overrides": {"epoch": 1}}, "did you mean 'epochs'"),
        ("ablate", {"variants": {"SA": {"seed": 1}}}, "leave out the key seed"),
        ("benchmark", {"names": ["rollot"]}, "did you mean 'rollout'"),
        ("benchmark", {"threads": 0}, "at least one bench and one thread"),
        ("five-attentions", {"overrides": {"seed": 1}}, "leave out the key seed"),
        ("five-attentions", {"people": 0}, "at least one seed and one person"),
    ],
)
def test_a_bad_parameter_of_an_experiment_is_one_line_at_once(name, given, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dcal_lite.train.Trainer.run_epoch", lambda _: pytest.fail("trained"))
    with pytest.raises(ValueError, match=message) as caught:
        run_with(given, cells_from_parameters(ROOT / f"book/experiments/{name}.ipynb"))
    assert "\n" not in str(caught.value)


def test_a_failing_experiment_leaves_its_notebook_up_to_the_failing_cell(tmp_path):
    path, out = ROOT / "book/experiments/train.ipynb", tmp_path / "out.ipynb"
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", str(path), str(out), "-p", "recipe", "dcal-ried"]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True)
    assert done.returncode != 0
    states = [cell.metadata.papermill.status for cell in code_cells(read(out))]
    failed = states.index("failed")
    assert set(states[:failed]) == {"completed"} and set(states[failed + 1 :]) == {"pending"}


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
    text = prose(path)
    shown = re.findall(SHOWN, text, flags=re.MULTILINE)
    assert len(shown) == text.count("{literalinclude}"), "source is shown as :language: python, by :pyobject:"
    for file, name in shown:
        assert [line for line in shown_source(path.parent / file, name) if len(line) > 100] == []


chapters = pytest.mark.parametrize("path", [x for x in PATHS if x.parent.name[0] in "1234"], ids=lambda path: path.stem)


@chapters
def test_a_chapter_has_a_figure_to_touch(path):
    last = (cell.source.splitlines() for cell in code_cells(read(path)))
    shown = [line for lines in last for line in lines if re.match(r"dl\.explorers\.\w+\(", line)]
    assert shown


def reading_minutes(path: Path) -> float:
    """What a chapter takes at 150 words and 15 lines of unfolded code a minute, exercises left out."""
    text = prose(path).partition("## Exercises")[0]
    text = re.sub(r"^```\{(literalinclude|math)\}.*?^```|\$\$.*?\$\$", "", text, flags=re.MULTILINE | re.DOTALL)
    folded = {"hide-input", "hide-cell"}
    unfolded = [cell for cell in code_cells(read(path)) if not folded & set(cell.metadata.get("tags", []))]
    return len(re.findall(r"[^\W\d_]{2,}", text)) / 150 + sum(len(c.source.splitlines()) for c in unfolded) / 15


@chapters
def test_a_chapter_says_how_long_it_takes(path):
    stated = re.search(r"Reading time: (\d+) minutes\.", read(path).cells[0].source)
    assert abs(int(stated[1]) - reading_minutes(path)) <= 10


@chapters
def test_every_exercise_has_a_folded_solution(path):
    text = prose(path)
    asked = re.findall(r"^```\{exercise\} .*\n:label: (\S+)$", text, flags=re.MULTILINE)
    solved = re.findall(r"^````\{solution\} (\S+)\n:class: dropdown$", text, flags=re.MULTILINE)
    assert asked == solved and 3 <= len(asked) <= 5


def letters(text: str) -> set[str]:
    """Every letter, Latin or Greek, of a text's formulas."""
    formulas = re.findall(r"```\{math\}.*?```|\$\$.*?\$\$|\$[^$]+\$", text, flags=re.DOTALL)
    return {letter for formula in formulas for letter in re.findall(r"\\[A-Za-z]+|[A-Za-z]", formula)}


def test_a_letter_with_a_second_meaning_stands_where_the_notation_says():
    text = (ROOT / "book/notation.md").read_text(encoding="utf-8")
    table = text.partition("second meaning:")[2].partition("\n## ")[0]
    rows = [row.split(" | ") for row in table.splitlines() if "{doc}" in row]
    cell = ""
    for first, *others in rows:
        cell = first if "$" in first else cell  # an empty first cell: one more meaning of the letter above
        for page in re.findall(r"\{doc\}`([^`]+)`", others[-1]):
            found = letters(prose(ROOT / f"book/{page}.ipynb"))
            assert letters(cell) <= found, f"{cell} is not in {page}"
    assert len(rows) > 20


def test_licences_of_what_the_site_serves_are_their_packages_own():
    rows = re.findall(r"^\| .* \| `([\w-]+)` \| (.*) \|$", (ROOT / "book/citing.md").read_text(encoding="utf-8"), re.M)
    assert len(rows) > 10
    for package, licence in rows:
        banners = [file for file in files(package) if file.name.endswith(("LICENSE.txt", "clipboard.min.js"))]
        stated = [value for key, value in metadata(package).items() if "License" in key + value]
        own = " ".join([*stated, *(file.read_text()[:1000] for file in banners)])
        for name in re.findall("Apache|BSD|MIT|CC BY 4.0|SIL OFL 1.1", licence):
            assert name in own, (package, name)


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


def made_up(row, preset, seeds, rng):
    """Results of a row, as `load_results` returns them, with scores drawn around one half."""
    experiment = dl.load_claims(ROOT / CLAIMS)[row]
    for seed in range(seeds):
        recipe = experiment.resolve(preset=preset, seed=seed)
        if recipe.precision == "auto":  # what it became is part of a run
            recipe = replace(recipe, precision="fp32")
        same = {key: getattr(recipe, key) for key in ("preset", "dataset", "seed", "digest")}
        scores = dict.fromkeys(("mAP", "rank1", "mAP_trapezoid"), rng.normal(0.5, 0.01))
        run = {"train_seconds": 60.0, "device": "x86_64 CPU", "threads": 1, "branches": ["sa"], "weights": None}
        run["command"] = recipe.command()
        yield {"recipe": recipe.name, **same, **scores, **run}


@pytest.fixture(scope="module")
def results_page():
    """The names that the page of results has before it looks at them, and the sources of the cells that do."""
    cells = read(ROOT / "book/4-reproduction/results.ipynb").cells
    titles = ("## What did we run?", "## What is not run yet")
    start, stop = (next(i for i, cell in enumerate(cells) if title in cell.source) for title in titles)
    names = {"dl": dl}
    for cell in cells[:start]:
        if cell.cell_type == "code" and "google.colab" not in cell.source:
            exec(cell.source, names)
    return names, [cell.source for cell in cells[start:stop] if cell.cell_type == "code"]


@pytest.mark.parametrize("seeds", [0, 1, 3])
def test_the_page_of_results_says_what_its_results_allow(seeds, results_page):
    """Made-up results; the page's words are compared with SciPy's paired t-test."""
    base, ours = "sa-deit-tiny-market1501", "dcal-deit-tiny-market1501"
    rng = np.random.default_rng(0)
    for _ in range(5):
        runs = {(row, p): [*made_up(row, p, seeds, rng)] for row in (base, ours) for p in ("paper", "reduced")}
        names = results_page[0] | {"results": [run for found in runs.values() for run in found]}
        for source in results_page[1]:
            exec(source, names)
        plt.close("all")
        assert {line["preset"] for line in names["full"]} == ({"paper"} if seeds else set())
        assert "published" not in str(names["reduced"])  # never beside a paper's number
        for preset, lines in (("paper", names["compared"]), ("reduced", names["reduced"])):
            scores = [[run["mAP"] for run in runs[row, preset]] for row in (ours, base)]
            word = "one seed: no interval"
            if seeds > 1:
                word = "resolved" if stats.ttest_rel(*scores).pvalue < 0.05 else "not resolved"
            assert [line["verdict"] for line in lines if line["row"] == ours] == ([word] if seeds else [])
