"""`python -m book.assignments build` and `... grade FOLDER`: student versions out, marks and feedback back."""

import argparse
import logging
import os
import random
import re
import sys
import warnings
from pathlib import Path

import nbformat
from nbgrader.api import Gradebook
from nbgrader.converters import Autograde, GenerateAssignment, GenerateFeedback
from nbgrader.converters.base import BaseConverter, NbGraderException
from nbgrader.coursedir import CourseDirectory
from nbgrader.plugins import CsvExportPlugin
from traitlets.config import Config, PyFileConfigLoader

from book.assignments.judging import MISSING, grade_id, merge
from book.assignments.sandbox import isolation
from book.assignments.variants import CHOICES, draw, render
from dcal_lite.checkpoint import atomic_path, write_text

HERE = Path(__file__).resolve().parent
COURSE = HERE.parents[1] / "course"
LARGEST = 20 * 2**20  # bytes of a submission


def settings(course: Path, **judge: float) -> Config:
    """Return nbgrader's configuration for a course in this folder, with settings of `Judge`."""
    config = PyFileConfigLoader("nbgrader_config.py", path=str(HERE)).load_config()
    config.CourseDirectory.root = str(course)
    config.Judge.update(judge)
    return config


def convert(step: type[BaseConverter], config: Config, name: str, student: str = "*") -> None:
    """Run one of nbgrader's steps for a problem set."""
    folder = CourseDirectory(config=config, assignment_id=name, student_id=student)
    step(coursedir=folder, config=config, force=True).start()


def build(course: Path, secret: str | None, term: int) -> None:
    """Write the variant of a course with its solutions into `source`, the student versions into `release`.

    Args:
        course: private folder.
        secret: any text that students don't know; None: the public sample.
        term: counts the terms in which the secret is used.
    """
    for name in CHOICES:
        notebook = render(name, {})
        if secret is not None:
            seed = random.Random(f"{secret} {name} {term}").randrange(10**6)
            notebook = render(name, draw(name, secret, term), seed)
        path = course / "source" / name / f"{name}.ipynb"
        text = nbformat.writes(notebook)
        if (course / "submitted").exists() and path.exists() and path.read_text(encoding="utf-8") != text:
            raise ValueError(f"{course} has submissions for another variant of {name}: move the folder away first")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
        convert(GenerateAssignment, settings(course), name)


def submissions(folder: Path) -> tuple[dict[tuple[str, str], Path], list[str]]:
    """Return the notebooks below a folder with one folder for each student, by student and problem set.

    Colab names a second download "ps1 (1).ipynb": the name need only contain the set's. Of several, the newest counts.

    Returns:
        The notebooks; then a line for each other one, which says why it is not graded.
    """
    found: dict[tuple[str, str], Path] = {}
    problems = []
    for path in sorted(folder.rglob("*.ipynb"), key=lambda path: path.lstat().st_mtime):
        place = path.relative_to(folder)
        student, name = place.parts[0], re.search("|".join(CHOICES), path.name, re.IGNORECASE)
        if ".ipynb_checkpoints" in place.parts:
            continue
        if not name:
            problem = f"the name of a set in its name expected: {', '.join(CHOICES)}"
        elif len(place.parts) == 1:
            problem = "a folder for each student expected"
        elif not re.fullmatch(r"\w([\w.,@' -]*\w)?", student):
            problem = f"the folder {student!r} names a student: letters, digits and .,@'- only"
        elif not (path.is_file() and path.resolve().is_relative_to((folder / student).resolve())):
            problem = "no file in the student's folder"
        else:
            found[student, name[0].lower()] = path
            continue
        problems.append(f"{str(place)!r}: not graded, {problem}")
    if not found:
        raise ValueError("\n".join([f"no submission in {folder}: STUDENT/ps1.ipynb expected", *problems]))
    return found, problems


def adopt(path: Path, release: Path) -> tuple[bytes, str]:
    """Return the student version with the answers of a submission, and what is wrong with the submission, if anything.

    Args:
        path: what was handed in; anything may be in it. What cannot be read counts as empty.
        release: the student version.
    """
    ours = nbformat.read(release, as_version=4)
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"larger than {LARGEST >> 20} MiB")
        notebook = merge(ours, nbformat.read(path, as_version=4))
        nbformat.validate(notebook)
        missing = [str(grade_id(cell)) for cell in notebook.cells if cell.source == MISSING]
        return nbformat.writes(notebook).encode(), f"without {', '.join(missing)}" if missing else ""
    except Exception as error:  # noqa: BLE001  a file from outside may break any reader
        empty = merge(ours, nbformat.v4.new_notebook())
        problem = f"cannot be read ({type(error).__name__}: {error}".splitlines()[0]
        return nbformat.writes(empty).encode(), f"{problem[:200]})"


def grade(folder: Path, course: Path, **judge: float) -> list[str]:
    """Grade all submissions below a folder; marks go to `grades.csv`, feedback to `feedback/STUDENT`.

    Returns:
        What a person has to look at, one line each.
    """
    isolation(trust=bool(judge.get("trust")))  # says at once if there is none
    config = settings(course, **judge)
    found, problems = submissions(folder)
    for (student, name), path in found.items():
        release = course / "release" / name / f"{name}.ipynb"
        if not release.is_file():
            raise ValueError(f"{course} has no {name}: run `make assignments` with the term's COURSE_SEED first")
        notebook, problem = adopt(path, release)
        if problem:
            problems.append(f"{student} {name}: {problem}")
        copy = course / "submitted" / student / name / f"{name}.ipynb"
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(notebook)
        try:
            convert(Autograde, config, name, student)
            convert(GenerateFeedback, config, name, student)
        except NbGraderException as error:
            problems.append(f"{student} {name}: not graded ({error})")
    names = sorted({path.name for path in course.glob("submitted/*/*")})
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as gradebook, atomic_path(course / "grades.csv") as table:
        CsvExportPlugin(to=str(table), assignment=names).export(gradebook)
    return problems


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m book.assignments", description=__doc__)
    parser.add_argument("--course", type=Path, default=COURSE, help="private folder (default: course/)")
    commands = parser.add_subparsers(required=True, dest="command")
    building = commands.add_parser("build", help="make the student versions")
    building.add_argument("--seed", default=os.environ.get("COURSE_SEED") or None, help="secret; none: the sample")
    building.add_argument("--term", type=int, default=os.environ.get("COURSE_TERM") or 1)
    grading = commands.add_parser("grade", help="grade STUDENT/psN.ipynb below a folder")
    grading.add_argument("folder", type=Path)
    grading.add_argument("--trust", action="store_true", help="run submissions without isolation")
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR, format="%(message)s")  # nbgrader tells much,
    warnings.filterwarnings("ignore", "Object of type")  # and SQLAlchemy warns of it, to no effect
    try:
        if options.command == "build":
            build(options.course.resolve(), options.seed, options.term)
            print(f"student versions: {options.course / 'release'}")
        else:
            problems = grade(options.folder, options.course.resolve(), trust=options.trust)
            print(
                f"marks: {options.course / 'grades.csv'}, feedback: {options.course / 'feedback'}", *problems, sep="\n"
            )
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
