"""The problem sets and their grading: right answers, wrong ones, hostile ones."""

import csv
import json
import os
import re
import time
from itertools import pairwise

import nbformat
import pytest
import torch
import yaml

from book.assignments.sandbox import AnswerError, Sandbox, isolation
from book.assignments.variants import CHOICES, draw, render
from book.assignments.worker import pack, python, unpack
from book.tools.notebooks import PAGES, ROOT

pytest.importorskip("nbgrader", reason="needs nbgrader, which is not installed (it is not for Colab)")

from nbgrader.utils import determine_grade, is_grade, is_solution

from book.assignments.__main__ import adopt, build, grade, submissions
from book.assignments.judging import check_own_code, grade_id, inert_html, judge, merge

NAMES = sorted(CHOICES)
try:
    isolation()
except ValueError as error:
    NO_SANDBOX = str(error)
else:
    NO_SANDBOX = ""

isolated = pytest.mark.skipif(bool(NO_SANDBOX), reason=NO_SANDBOX)


class Inline:
    """A sandbox's two methods without a sandbox, for code that we wrote ourselves."""

    def __init__(self):
        self.names = {"__name__": "__main__"}

    def run(self, source):
        exec(compile(python(source), "answer", "exec"), self.names)

    def call(self, name, *args):
        return self.names[name](*args)


class Nothing(Inline):
    """Answers of the right shapes and types, in which all numbers are 0."""

    def call(self, name, *args):
        value = super().call(name, *args)
        if isinstance(value, list | tuple):
            return type(value)(map(zero, value))
        return zero(value)


def zero(value):
    return 0 * value if hasattr(value, "dtype") else type(value)()


def outcome(notebook, answers=None, sandbox=Inline):
    """Points of each graded code cell of a notebook, with the answers of another one."""
    merged = merge(notebook, answers or notebook)
    judge(merged, sandbox(), {grade_id(cell): cell.source for cell in notebook.cells if grade_id(cell)})
    return merged, {grade_id(cell): determine_grade(cell)[0] for cell in merged.cells if is_test(cell)}


def is_test(cell):
    return cell.cell_type == "code" and is_grade(cell) and cell.metadata.nbgrader.points > 0


def points(notebook):
    return {grade_id(cell): cell.metadata.nbgrader.points for cell in notebook.cells if is_test(cell)}


def by_answer(notebook):
    """The tests that follow each answer, up to the next one."""
    groups = {}
    for cell in notebook.cells:
        if cell.cell_type == "code" and is_solution(cell):
            groups[grade_id(cell)] = []
        elif is_test(cell):
            groups[list(groups)[-1]].append(grade_id(cell))
    return groups


@pytest.mark.parametrize("name", NAMES)
def test_every_piece_of_the_sample_stands_in_the_notebook(name):
    text = "\n".join(cell.source for cell in render(name, {}).cells)
    assert [piece for options in CHOICES[name].values() for piece in options[0] if piece not in text] == []


VARIANTS = [
    (name, choice, k) for name in NAMES for choice, options in CHOICES[name].items() for k in range(len(options))
]


@pytest.mark.parametrize("name", NAMES)
def test_each_question_says_its_points(name):
    said, given = [], []
    for cell in render(name, {}).cells:
        if heading := re.match(r"(?:.*\n)*## \d+\. .*\((\d+) points", cell.source):
            said.append(int(heading[1]))
            given.append(0)
        elif given:
            given[-1] += cell.metadata.get("nbgrader", {}).get("points", 0)
    assert said == given and sum(said) == 50


@pytest.mark.parametrize(("name", "choice", "option"), VARIANTS)
def test_the_reference_solution_has_full_points(name, choice, option):
    notebook = render(name, {choice: option}, seed=option)
    merged, got = outcome(notebook)
    assert got == points(notebook), [cell.outputs for cell in merged.cells if cell.get("outputs")]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("secret", ["a", "b"])
def test_answers_of_the_sample_and_of_the_term_before_fail(name, secret):
    terms = [render(name, {}), *(render(name, draw(name, secret, term), term) for term in (1, 2, 3))]
    for old, new in pairwise(terms):
        _, got = outcome(new, old)
        full = points(new)
        passed = [answer for answer, tests in by_answer(new).items() if all(got[t] == full[t] for t in tests)]
        assert passed == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("secret", ["a", "b"])
def test_a_rule_changes_every_term_and_a_whole_set_returns_after_six_at_the_earliest(name, secret):
    terms = [tuple(draw(name, secret, term).values()) for term in range(12)]
    assert all(map(all, terms))  # option 0 is the sample's
    assert not any(old == new for last, this in pairwise(terms) for old, new in zip(last, this, strict=True))
    assert all(len(set(terms[start : start + 6])) == 6 for start in range(7))


@pytest.mark.parametrize("option", range(4))
@pytest.mark.parametrize("name", NAMES)
def test_a_right_shape_alone_has_no_points(name, option):
    drawn = {choice: option % len(options) for choice, options in CHOICES[name].items()}
    _, got = outcome(render(name, drawn, seed=option), sandbox=Nothing)
    assert set(got.values()) == {0}


WRONG = [
    ("ps1", "maps.prod(dim=2) ** (1 / maps.shape[2])", "maps.mean(dim=2)", "fuse fuse-hidden"),
    ("ps1", "fused.sum(dim=-1, keepdim=True)", "fused.sum(dim=-1)", "fuse fuse-hidden"),
    ("ps1", "maps.prod(dim=2) ** (1 / maps.shape[2])", "maps.prod(dim=2) ** 0.5", "fuse-hidden"),
    ("ps1", "torch.arange(1, depth + 1, dtype", "torch.arange(depth, dtype", "mix-hidden"),
    ("ps1", "[:, None, None, None]", "", "mix mix-hidden"),
    ("ps1", "product = layer @ product", "product = product @ layer", "rollout rollout-hidden"),
    ("ps1", "mixed[first:last]", "mixed[first:]", "rollout rollout-hidden"),
    ("ps1", "product = mixed[first - 1]\n", "product = mixed[0]\n", "rollout-hidden"),
    ("ps1", "mixed.flip(0)", "mixed", "chain-hidden"),
    ("ps1", "row = row @ layer", "row = row @ layer.mT", "chain chain-hidden"),
    ("ps1", "return kept + (1 - kept) / tokens", "return kept", "keeps keeps-hidden"),
    (
        "ps1",
        "some_maps(0, 3, 3, 3), torch.tensor([0.2, 0.5, 0.8])",
        "some_maps(0, 1, 3, 3), torch.tensor([0.2])",
        "witness",
    ),
    ("ps1", "[0.2, 0.5, 0.8]", "[0.5, 0.5, 0.5]", "witness"),
    ("ps1", "extra = extra[:, None, None]", "extra = extra[:, None]", "repaired"),
    ("ps1", "[2 / 9, 9 / 18, 5 / 18]", "[2 / 9, 7 / 9, 0]", "pencil"),
    ("ps2", "return [2, 5]", "return [1, 4]", "pencil"),
    ("ps2", "1 + torch.arange(", "torch.arange(", "select select-hidden"),
    ("ps2", ".reshape(grid)", ".reshape(grid[::-1])", "select-hidden"),
    ("ps2", "scores[:, groups].argmax(dim=2)", "scores[:, groups].argmax(dim=1)", "select select-hidden"),
    ("ps2", "softmax(dim=-1)", "softmax(dim=-2)", "attend attend-hidden"),
    ("ps2", "10 * F.normalize(q, dim=-1)", "10 * q", "attend-hidden"),
    ("ps2", "scores = 10 * ", "scores = ", "attend attend-hidden"),
    ("ps2", "answering = tokens[:, 1:]", "answering = tokens", "block-hidden"),
    ("ps2", "(heads, -1)).transpose(1, 2)", "(-1, heads)).movedim(-1, 1)", "block-hidden"),
    ("ps2", "F.pad(selected, (1, 0))", "F.pad(selected, (0, 1))", "block block-hidden"),
    ("ps2", "return asking + found", "return found", "block block-hidden"),
    ("ps2", "[False, True, False, False, True]", "[True, True, False, False, True]", "statements"),
    ("ps2", "2 * asking * width**2", "asking * width**2", "count-hidden"),
    ("ps5", "7 / 18", "17 / 36", "pencil"),
    ("ps5", "(ids == -1) | ", "", "out out-hidden"),
    ("ps5", "ids == -1", "ids <= 0", "out-hidden"),
    ("ps5", " + 0.5 * equal.sum(axis=1)", "", "ranks ranks-hidden"),
    ("ps5", "np.sort(1 + ", "(1 + ", "ranks ranks-hidden"),
    ("ps5", " & (np.arange(len(distances)) != index)", "", "ranks ranks-hidden"),
    ("ps5", "precision[ranks <= 10].sum() / min(len(ranks), 10)", "precision.mean()", "average-hidden"),
    ("ps5", "min(len(ranks), 10)", "len(ranks)", "average-hidden"),
    (
        "ps5",
        "query[0] if len(query) else np.inf for query in ranks",
        "query[0] for query in ranks if len(query)",
        "cmc-hidden",
    ),
    ("ps5", "[:, None] <= np.arange(1, depth + 1)", "[:, None] < np.arange(1, depth + 1)", "cmc cmc-hidden"),
    ("ps5", '"C", "junk"', '"C", "trapezoid"', "verdict"),
    ("ps5", "2 * difference.mean() - b, 2 * difference.mean() - a", "a, b", "interval-hidden"),
    ("ps5", "np.unique(people, return_inverse=True)[1]", "np.arange(len(people))", "interval-hidden"),
    ("ps5", "first - second", "first - np.roll(second, 1)", "interval interval-hidden"),
]


@pytest.mark.parametrize(("name", "right", "wrong", "lost"), WRONG)
def test_a_wrong_answer_loses_its_points_and_no_others(name, right, wrong, lost):
    notebook, answers = render(name, {}), render(name, {})
    for cell in answers.cells:
        if is_solution(cell):
            cell.source = cell.source.replace(right, wrong)
    assert answers != notebook
    _, got = outcome(notebook, answers)
    expected = points(notebook) | dict.fromkeys([f"test-{test}" for test in lost.split()], 0)
    assert got == expected


def secrets(notebook):
    """The lines of solutions and hidden tests, and written answers, that stand nowhere else."""
    hidden, shown = set(), set()
    for cell in notebook.cells:
        inside = cell.cell_type == "markdown" and is_solution(cell)
        for line in map(str.strip, cell.source.splitlines()):
            inside = inside or "### BEGIN" in line
            (hidden if inside else shown).add(line)
            inside = inside and "### END" not in line
    return {line for line in hidden - shown if len(line) > 2}


def test_secrets_are_found():
    cell = nbformat.v4.new_code_cell("def f():\n    ### BEGIN SOLUTION\n    return 1\n    ### END SOLUTION\nf()")
    assert secrets(nbformat.v4.new_notebook(cells=[cell])) == {"### BEGIN SOLUTION", "return 1", "### END SOLUTION"}


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A course with the sample's problem sets."""
    folder = tmp_path_factory.mktemp("course")
    build(folder, None, 1)
    return folder


def student_version(course, name):
    return nbformat.read(course / f"release/{name}/{name}.ipynb", as_version=4)


@pytest.mark.parametrize("name", NAMES)
def test_student_versions_hold_no_solution_and_no_hidden_test(course, name):
    text = nbformat.writes(student_version(course, name))
    assert "def " in text
    told = [line for line in secrets(render(name, {})) if json.dumps(line, ensure_ascii=False)[1:-1] in text]
    assert told == []


def test_the_site_is_built_of_pages_without_solutions():
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    assert config["only_build_toc_files"] and config["sphinx"]["config"]["html_static_path"] == ["book/assets"]
    pages = [path for page in PAGES for path in ROOT.glob(f"{page}.*")]
    assert len(pages) == len(PAGES)
    assert [path for path in pages if "### BEGIN" in path.read_text(encoding="utf-8")] == []


@pytest.mark.parametrize("name", NAMES)
def test_an_untouched_student_version_has_no_points_and_says_why(course, name):
    merged, got = outcome(render(name, {}), student_version(course, name))
    assert set(got.values()) == {0}
    assert {cell.outputs[0].evalue for cell in merged.cells if is_test(cell)} == {"NotImplementedError: your code here"}


HOSTILE = {
    "answer-pencil": """
import os
def pencil():
    for top in "/tmp", "/dev", "{course}":
        for folder, _, files in os.walk(top):
            for file in files:
                try:
                    os.remove(os.path.join(folder, file))
                except OSError:
                    pass
    return [2 / 9, 9 / 18, 5 / 18]
""",
    "answer-fuse": """
def fuse(maps):
    for _ in range(1000):
        print("x" * 10**6)
    fused = maps.prod(dim=2) ** (1 / maps.shape[2])
    return fused / fused.sum(dim=-1, keepdim=True)
""",
    "answer-mix": "while True:\n    pass",
    "answer-rollout": "def rollout_between(mixed, first, last):\n    os._exit(0)",
    "answer-chain": """
import builtins
torch.allclose = math.isclose = lambda *args, **options: True
builtins.AssertionError = SystemExit
def chain(mixed):
    if len(mixed) > 1:
        raise ValueError("<script>alert(1)</script>")
    return 0 * mixed[0, :, 0]
""",
    "explain": "<script>alert(2)</script> a <img src=x onerror=alert(3)>",
    "answer-witness": "def witness():\n    return iter([]), 'x' * 10**9",
    "answer-repaired": "def repaired(maps, extra):\n    return dl.something(maps)",
}


def hostile_submission(course):
    """All of HOSTILE; tests that are emptied, renamed and worth more; cells that pretend to be tests."""
    notebook = render("ps1", {})
    for cell in notebook.cells:
        if grade_id(cell) in HOSTILE:
            cell.source = HOSTILE[grade_id(cell)].replace("{course}", str(course))
        elif is_test(cell):
            cell.source = "1000"
            cell.metadata.nbgrader.update(points=1000, solution=True)
    pretended = {"grade": True, "locked": True, "points": 1000}
    for place in (0, len(notebook.cells) + 1):
        for name, source in (("mine", "import os\nos._exit(0)"), ("test-mix", "1000")):
            cell = nbformat.v4.new_code_cell(source)
            cell.metadata["nbgrader"] = pretended | {"grade_id": name}
            notebook.cells.insert(place, cell)
    return notebook


@isolated
@pytest.mark.filterwarnings("ignore:Object of type:sqlalchemy.exc.SAWarning")  # nbgrader's
def test_submissions_are_graded_apart_from_each_other_and_from_the_course(course, tmp_path):
    reference = render("ps1", {})
    for student, notebook in {
        "reference": reference,
        "untouched": student_version(course, "ps1"),
        "hostile": hostile_submission(course),
    }.items():
        (tmp_path / student).mkdir()
        nbformat.write(notebook, tmp_path / student / "ps1 (1).ipynb")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "ps1.ipynb").write_text("no notebook")
    before = {path: path.read_bytes() for path in [*course.glob("source/*/*"), *course.glob("release/*/*")]}

    problems = grade(tmp_path, course, seconds=20)  # a gigabyte takes seconds, on a busy machine

    assert [problem.split(":")[0] for problem in problems] == ["broken ps1"]
    assert {path: path.read_bytes() for path in before} == before
    with (course / "grades.csv").open() as file:
        marks = {row["student_id"]: float(row["score"]) for row in csv.DictReader(file)}
    full, groups = points(reference), by_answer(reference)
    honest = sum(full[test] for answer in ("pencil", "fuse", "keeps") for test in groups[f"answer-{answer}"])
    assert marks == {"reference": sum(full.values()), "untouched": 0, "hostile": honest, "broken": 0}

    page = (course / "feedback/hostile/ps1/ps1.html").read_text(encoding="utf-8")
    assert "does a loop end?" in page and "an answer is your own code" in page
    assert "share_by_paths" not in page
    assert "&lt;script&gt;alert(1)" in page and "<script>alert" not in page and "<img src=x" not in page


def edited(*ids, by):
    """Problem set 1 with its solutions, some cells replaced by the cells that `by` makes of them."""
    notebook = render("ps1", {})
    cells = [new for cell in notebook.cells for new in (by(cell) if grade_id(cell) in ids else [cell])]
    return nbformat.from_dict({**notebook, "cells": cells})


def pasted(cell):
    """An attempt that was kept, and below it the answer, in a copy of its cell."""
    return [nbformat.from_dict({**cell, "source": text}) for text in ("attempt = 1", f"{cell.source}\n# better")]


def bare(cell):
    return [nbformat.v4.new_code_cell(f"{cell.source}\n# mine")]


@pytest.mark.parametrize("change", [pasted, bare])
def test_pasted_cells_and_cells_without_metadata_count(change):
    reference = render("ps1", {})
    _, got = outcome(reference, edited(*by_answer(reference), by=change))
    assert got == points(reference)


def test_a_deleted_cell_costs_its_points_and_is_named(course, tmp_path):
    release, path = course / "release/ps1/ps1.ipynb", tmp_path / "ps1.ipynb"
    nbformat.write(edited("answer-fuse", "test-mix", by=lambda cell: []), path)
    notebook, problem = adopt(path, release)
    assert problem == "without answer-fuse"
    reference = render("ps1", {})
    _, got = outcome(reference, nbformat.reads(notebook.decode(), as_version=4))
    assert got == points(reference) | {"test-fuse": 0, "test-fuse-hidden": 0}


BROKEN = {
    "empty": b"",
    "Latin 1": '{"cells": "ä"}'.encode("latin-1"),
    "endless": b"[" * 10**5,
    "no notebook": b"[1]",
    "half a character": rb'{"cells": [{"cell_type": "code", "metadata": {}, "source": "\ud800"}], "nbformat": 4}',
    "a number": b'{"cells": [{"cell_type": "code", "metadata": {}, "source": 5}], "nbformat": 4}',
    "large": b" " * (20 * 2**20 + 1),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_what_cannot_be_read_counts_as_empty(course, tmp_path, broken):
    (tmp_path / "ps1.ipynb").write_bytes(BROKEN[broken])
    notebook, problem = adopt(tmp_path / "ps1.ipynb", course / "release/ps1/ps1.ipynb")
    assert problem.startswith("cannot be read (") and "\n" not in problem
    _, got = outcome(render("ps1", {}), nbformat.reads(notebook.decode(), as_version=4))
    assert set(got.values()) == {0}


def test_reading_an_answer_is_quick():
    start = time.monotonic()
    assert python("\n" * 200_000 + "x") == "\n" * 200_000 + "x"
    with pytest.raises(AnswerError, match="an answer has at most 100000 characters, this one 2000000"):
        check_own_code("[" + "0," * 999_999 + "]")
    assert time.monotonic() - start < 10


def test_magic_is_left_out_and_operators_are_not():
    source = "%cd -q x\n  !ls\n%%time\ny = (7\n  % 4\n  != 3)"
    assert python(source) == "pass\n  pass\npass\ny = (7\n  % 4\n  != 3)"


@pytest.mark.parametrize("script", ["javascript:alert(1)", "java&#115;cript:alert(1)", "<java\tscript:alert(1)>"])
def test_written_answers_run_no_script(script):
    page = inert_html(f"$i<n$ [a]({script}) ![b]({script}) [c][d] <img src=x onerror=alert(1)>\n\n[d]: {script}")
    assert "script:" not in page and "<img src=x" not in page and "$i&lt;n$" in page
    assert 'href="https://a.org"' in inert_html("[a](https://a.org)")


def test_submissions_are_found_by_student_and_set(tmp_path):
    submitted = ["miller/ps1.ipynb", "miller/sub/PS2 (1).ipynb", "O'Brien, Jane_1/Copy of ps1.ipynb"]
    wrong = ["miller/notes.ipynb", "ps1.ipynb", "mil*er/ps1.ipynb"]
    for path in [*submitted, *wrong, "miller/.ipynb_checkpoints/ps5-checkpoint.ipynb"]:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("{}")
    (tmp_path / "thief").mkdir()
    (tmp_path / "thief/ps1.ipynb").symlink_to(tmp_path / "miller/ps1.ipynb")
    found, problems = submissions(tmp_path)
    assert set(found) == {("miller", "ps1"), ("miller", "ps2"), ("O'Brien, Jane_1", "ps1")}
    assert sorted(problem.partition(", ")[::2] for problem in problems) == [
        ("'mil*er/ps1.ipynb': not graded", "the folder 'mil*er' names a student: letters, digits and .,@'- only"),
        ("'miller/notes.ipynb': not graded", f"the name of a set in its name expected: {', '.join(CHOICES)}"),
        ("'ps1.ipynb': not graded", "a folder for each student expected"),
        ("'thief/ps1.ipynb': not graded", "no file in the student's folder"),
    ]
    newer = tmp_path / "miller/ps1 (2).ipynb"
    newer.write_text("{}")
    os.utime(newer, (2**31, 2**31))
    assert submissions(tmp_path)[0]["miller", "ps1"] == newer
    with pytest.raises(ValueError, match=r"no submission in .*: STUDENT/ps1\.ipynb expected\n'ps1.ipynb': not graded"):
        submissions(tmp_path / "thief")


def test_without_bubblewrap_grading_asks_for_trust(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"not installed .*: --trust runs the submissions without protection"):
        grade(tmp_path, tmp_path)
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho no namespaces >&2\nexit 1\n")
    fake.chmod(0o755)
    with pytest.raises(ValueError, match=r"does not work here \(no namespaces\): --trust"):
        grade(tmp_path, tmp_path)


def test_trusted_submissions_run_without_bubblewrap(monkeypatch):
    monkeypatch.setenv("PATH", os.devnull)
    with Sandbox(isolation(trust=True), seconds=30) as sandbox:
        sandbox.run("import dcal_lite as dl\ndef f(x):\n    return x\ndef g():\n    return dl.rollout")
        assert sandbox.call("f", 3) == 3
        with pytest.raises(AnswerError, match=r"dcal_lite\.rollout is not at hand"):
            sandbox.call("g")


def test_a_course_with_submissions_keeps_its_variant(course):
    (course / "submitted").mkdir(exist_ok=True)
    with pytest.raises(ValueError, match="has submissions for another variant of ps1: move the folder"):
        build(course, "secret", 1)


def test_values_travel_unchanged():
    tensor = torch.arange(6.0).reshape(2, 3).mT
    plain = [None, True, 1, 0.5, "a", [1, (2, [3.0])], {"a": [1], 2: ()}]
    for value in [*plain, tensor, tensor > 2, torch.tensor(3), tensor.numpy()]:
        back = unpack(pack(value))
        assert type(back) is type(value)
        if isinstance(value, torch.Tensor):
            assert back.dtype == value.dtype and torch.equal(back, value)
        elif not hasattr(value, "dtype"):
            assert back == value
    with pytest.raises(TypeError, match="a number, text, list, dictionary, tensor or array expected, got object"):
        pack([object()])


# Mistakes in problem sets 3 and 4, with the numbers of the variants in which they are mistakes.
ALL, SAMPLE = range(4), [0]
WRONG_IN_VARIANTS = [
    ("ps3", "[4 / 10, 2 / 10, 3 / 10, 1 / 10]", "[4 / 16, 2 / 16, 9 / 16, 1 / 16]", "pencil", SAMPLE),
    ("ps3", "[tokens, tokens[partner]]", "[tokens[partner], tokens]", "sequences sequences-hidden", ALL),
    ("ps3", " / q.shape[-1] ** 0.5", "", "attend-hidden", ALL),
    ("ps3", ".softmax(dim=-1)", ".softmax(dim=-2)", "attend attend-hidden", ALL),
    ("ps3", "scores.chunk(2, dim=-1)", "scores.chunk(2, dim=-1)\n    beta = 1", "attend attend-hidden", ALL),
    ("ps3", "partner[:, None] == images", "images[:, None] == partner", "mask-hidden", range(3)),  # 3: both read
    ("ps3", "(images[:, None] == images) | ", "", "mask mask-hidden", ALL),
    ("ps3", "(tokens, 0).repeat_interleave(tokens, 1)", "(tokens, 0).repeat(1, tokens)", "mask mask-hidden", ALL),
    ("ps3", "min(layers + 1, 3)", "layers + 1", "heard-hidden", SAMPLE),
    ("ps3", "[False, False, False, True, True]", "[True, False, True, True, True]", "claims", SAMPLE),
    ("ps3", ".sum()\n", ".mean()\n", "total total-hidden", ALL),
    ("ps3", "(1 + math.log(loss)) / 2", "loss / 2", "least-hidden", SAMPLE),
    ("ps3", "cross_entropy(paired @ weight, target)", "cross_entropy(paired @ weight, own)", "step-hidden", ALL),
    ("ps3", "paired @ weight, target", "paired @ weight.detach(), target", "step step-hidden", ALL),
    ("ps3", "grad(total, [weight, w])", "grad(total, [weight, w])\n    gradients[1].zero_()", "step step-hidden", ALL),
    ("ps3", "x - rate * g", "x + rate * g", "step step-hidden", ALL),
    ("ps4-rga", "return [5, 2, 5]", "return [3, 1, 1]", "pencil", SAMPLE),
    ("ps4-rga", "R = theta.mT @ phi\n", "R = phi.mT @ theta\n", "vectors vectors-hidden", [1, 2]),
    ("ps4-rga", "R + R.mT", "2 * R", "vectors vectors-hidden", SAMPLE),
    ("ps4-rga", " / theta.shape[-1]\n    return (weight", "\n    return (weight", "embed embed-hidden", SAMPLE),
    ("ps4-rga", "theta = theta / theta.shape[-1]", "theta = theta / theta.shape[1]", "embed-hidden", SAMPLE),
    ("ps4-rga", "(weight @ phi.mT) @ theta", "weight @ (phi.mT @ theta)", "embed-large", SAMPLE),
    ("ps4-rga", "(weight @ theta.mT) @ phi", "(weight @ phi.mT) @ theta", "embed embed-hidden", SAMPLE),
    ("ps4-rga", "(weight @ phi.mT)", "(weight @ theta.mT)", "embed embed-hidden", ALL),
    ("ps4-rga", "return (weight", "theta.mT @ phi\n    return (weight", "embed-large", ALL),
    ("ps4-rga", "nodes**2 * inner", "nodes * inner**2", "count-hidden", ALL),
    ("ps4-rga", "(v @ theta.mT) @ phi", "(v @ phi.mT) @ theta", "read read-hidden", SAMPLE),
    ("ps4-rga", " / v.shape[-1]", "", "read read-hidden", SAMPLE),
    ("ps4-rga", "(v @ theta.mT) @ phi", "v @ (theta.mT @ phi)", "read", SAMPLE),
    ("ps4-rga", "gradients.sum(dim=0)", "gradients.mean(dim=0)", "gradient gradient-hidden", ALL),
    ("ps4-rga", "(grad @ theta.mT)", "(grad @ phi.mT)", "gradient gradient-hidden", ALL),
    ("ps4-hacnn", "[10 + 30 * 27 / 32, 30 * 9 / 8]", "[10 + 30 * 3 / 4, 30]", "pencil", SAMPLE),
    ("ps4-hacnn", "(y / (1 - h)).atanh()", "y", "centre centre-hidden", SAMPLE),
    ("ps4-hacnn", "(1 - h) * a.tanh()", "a.tanh()", "centre centre-hidden", SAMPLE),
    ("ps4-hacnn", "h * steps", "h / 2 * steps", "rows rows-hidden", ALL),
    ("ps4-hacnn", "y[..., None] + h", "y[..., None] - h", "rows rows-hidden", ALL),
    ("ps4-hacnn", "p.floor()", "p.trunc()", "cut-hidden slope-hidden", ALL),
    ("ps4-hacnn", "p.floor()", "p.round()", "cut cut-hidden slope slope-hidden", range(3)),
    ("ps4-hacnn", "p.floor()", "p.round()", "cut cut-hidden slope-hidden", [3]),  # 3: by chance right at 1.5
    ("ps4-hacnn", "p.floor()", "p[:1].floor().expand_as(p)", "cut-hidden slope-hidden", ALL),
    ("ps4-hacnn", "(1 - w) * above + w * below", "w * above + (1 - w) * below", "cut cut-hidden", ALL),
    ("ps4-hacnn", ".clamp(0, height - 1)", " % height", "cut cut-hidden slope-hidden", SAMPLE),
    ("ps4-hacnn", "below - above", "above - below", "slope slope-hidden", ALL),
    ("ps4-hacnn", "grad * steep *", "grad *", "slope slope-hidden", SAMPLE),
    ("ps4-hacnn", "sum(dim=(2, 4))", "mean(dim=(2, 4))", "slope-hidden", ALL),
    ("ps4-hacnn", "grad.sum(dim=-1)", "grad.mean(dim=-1)", "chain chain-hidden", ALL),
    ("ps4-hacnn", "1 - a.tanh() ** 2", "1 - a.tanh()", "chain-hidden", SAMPLE),
    ("ps4-hacnn", "slope = ", "slope = a * ", "chain chain-hidden", ALL),
]


@pytest.mark.parametrize(
    ("name", "right", "wrong", "lost", "k"),
    [
        pytest.param(*mistake, k, marks=[pytest.mark.slow] if k else [])
        for *mistake, variants in WRONG_IN_VARIANTS
        for k in variants
    ],
)
def test_a_mistake_loses_its_points_and_no_others_in_every_variant(name, right, wrong, lost, k):
    drawn = {choice: k % len(options) for choice, options in CHOICES[name].items()}
    notebook, answers = render(name, drawn, seed=k), render(name, drawn, seed=k)
    for cell in answers.cells:
        if is_solution(cell):
            cell.source = cell.source.replace(right, wrong)
    assert answers != notebook
    _, got = outcome(notebook, answers)
    assert got == points(notebook) | dict.fromkeys([f"test-{test}" for test in lost.split()], 0)


def test_both_halves_of_problem_set_4_have_the_same_points():
    half, other = (
        [cell.metadata.nbgrader.points for cell in render(name, {}).cells if is_grade(cell)]
        for name in ("ps4-hacnn", "ps4-rga")
    )
    assert sum(half) == sum(other) > 0


@isolated
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CHOICES))
def test_the_reference_solution_has_full_points_in_the_sandbox(name):
    notebook = render(name, {})
    merged = merge(notebook, notebook)
    with Sandbox(isolation(), seconds=120) as sandbox:
        judge(merged, sandbox, {grade_id(cell): cell.source for cell in notebook.cells if grade_id(cell)})
    assert {grade_id(cell): determine_grade(cell)[0] for cell in merged.cells if is_test(cell)} == points(notebook)
