"""Merge a submission with our student version, run it, and leave the outcome where nbgrader looks for it.

The student's cells run in a sandbox. The tests run here, where the student's code never is: the functions they call are
stand-ins that pass arguments to the sandbox and bring results back. So no code can change a test, or see its answer.
"""

import ast
from functools import partial
from typing import Any

import nbformat
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from nbgrader.api import Gradebook
from nbgrader.preprocessors import NbGraderPreprocessor
from nbgrader.utils import is_grade, is_solution
from traitlets import Bool, Float

from book.assignments.sandbox import AnswerError, Sandbox, isolation
from book.assignments.worker import python

MISSING = "# This cell is missing in what was handed in."
LONGEST = 100_000  # characters of an answer


def grade_id(cell: NotebookNode) -> str | None:
    """Return nbgrader's name of a cell, if it has one."""
    return cell.metadata.get("nbgrader", {}).get("grade_id")


def is_look(cell: NotebookNode) -> bool:
    """Whether a cell is there for looking only: it needs the library, and nothing depends on it."""
    return grade_id(cell) is None and "look" in cell.metadata.get("tags", [])


def merge(release: NotebookNode, submitted: NotebookNode) -> NotebookNode:
    """Return the student version with a submission's answers, and its own code cells after the cells they follow.

    Nothing else of a submission counts: no metadata, no output, no test, no order. A second cell with the metadata of
    an answer, as a pasted or split cell has, counts as the student's own code. So do answers without metadata.
    """
    known, ours = set(map(grade_id, release.cells)) - {None}, {cell.source for cell in release.cells}
    given = {cell.source: grade_id(cell) for cell in release.cells if grade_id(cell) and not is_grade(cell)}
    answers: dict[str, str] = {}
    own: dict[str | None, list[NotebookNode]] = {}
    place = None
    for cell in submitted.cells:
        name = grade_id(cell) if grade_id(cell) in known else given.get(cell.source)
        if name and name not in answers:
            place = name
            answers[name] = cell.source
        elif cell.cell_type == "code" and cell.source not in ours:
            own.setdefault(place, []).append(nbformat.v4.new_code_cell(cell.source))
    cells = own.get(None, [])
    for cell in map(NotebookNode.copy, release.cells):
        if is_solution(cell):
            cell.source = answers.get(grade_id(cell), MISSING)
        cells += [cell, *(own.get(grade_id(cell), []) if grade_id(cell) in known else [])]
    return nbformat.from_dict({**release, "cells": cells})


def functions(sources: list[str]) -> list[str]:
    """Return the names of the functions that code defines."""
    nodes = [node for source in sources for node in ast.parse(python(source)).body]
    return [node.name for node in nodes if isinstance(node, ast.FunctionDef)]


def inert_html(source: str) -> str:
    """Return Markdown as HTML, in which neither its own HTML nor a link can run a script in the reader's browser."""
    return MarkdownWithMath(renderer=IPythonRenderer(escape=True, allow_harmful_protocols=False)).render(source)


def check_own_code(source: str) -> None:
    """Raise AnswerError if an answer names the library, from which it could copy."""
    if len(source) > LONGEST:  # reading it would take all our memory
        raise AnswerError(f"an answer has at most {LONGEST} characters, this one {len(source)}")
    for node in ast.walk(ast.parse(python(source))):
        words = [getattr(node, key, None) for key in ("id", "name", "module", "value")]
        if any(word == "dl" or "dcal_lite" in str(word) for word in words if isinstance(word, str)):
            raise AnswerError(f"line {node.lineno} uses dcal_lite: an answer is your own code")


def judge(notebook: NotebookNode, sandbox: Sandbox, key: dict[str, str]) -> None:
    """Run a notebook; the output of a cell is the error that it ended with, if any.

    Args:
        notebook: a merged submission; its outputs are replaced.
        sandbox: runs the student's cells and the given ones.
        key: sources of the student version, by grade_id, with hidden tests. Locked cells are taken from here.
    """
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and not is_look(cell)]
    answers = [key[grade_id(cell)] for cell in code if is_solution(cell)]
    space: dict[str, Any] = {name: partial(sandbox.call, name) for name in functions(answers)}
    for cell in code:
        cell.outputs = []
        ours = grade_id(cell) is not None and not is_solution(cell)
        try:
            if ours:
                exec(compile(python(key[grade_id(cell)]), "tests", "exec"), space)
            elif is_solution(cell):
                check_own_code(cell.source)
            if not is_grade(cell):
                sandbox.run(key[grade_id(cell)] if ours else cell.source)
        except Exception as error:  # noqa: BLE001  anything that a test or a student's code raises is its outcome
            said = isinstance(error, AnswerError | AssertionError)
            text = str(error) if said else f"{type(error).__name__}: {error}"
            text = text[:1000]  # a test's message quotes the answer, whatever its size
            cell.outputs = [nbformat.v4.new_output("error", ename="", evalue=text, traceback=[text])]


class Judge(NbGraderPreprocessor):
    """nbgrader's step that executes a submission, by `judge`."""

    trust = Bool(help="Run submissions without isolation.").tag(config=True)
    seconds = Float(30, help="Time for a cell of a submission, or for a call of one of its functions.").tag(config=True)

    def preprocess(self, nb: NotebookNode, resources: dict[str, Any]) -> tuple[NotebookNode, dict[str, Any]]:
        """Judge a notebook by the sources that `nbgrader generate_assignment` stored."""
        place = resources["nbgrader"]
        with Gradebook(place["db_url"]) as gradebook:
            stored = gradebook.find_notebook(place["notebook"], place["assignment"]).source_cells
            key = {cell.name: cell.source for cell in stored}
        with Sandbox(isolation(trust=self.trust), seconds=self.seconds) as sandbox:
            judge(nb, sandbox, key)
        return nb, resources
