"""What nbgrader does differently here; for `make assignments`, `make grade` and nbgrader's own commands."""

import os
import sys
import sysconfig
from pathlib import Path

from nbconvert.preprocessors import ClearMetadataPreprocessor, CSSHTMLHeaderPreprocessor
from nbgrader.preprocessors import (
    AssignLatePenalties,
    CheckCellMetadata,
    ClearHiddenTests,
    GetGrades,
    LimitOutput,
    SaveAutoGrades,
)

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])  # nbgrader calls alembic

from book.assignments.judging import Judge, inert_html  # noqa: E402

c = get_config()
c.CourseDirectory.root = str(ROOT / "course")
c.ClearSolutions.code_stub = {"python": 'raise NotImplementedError("your code here")'}
c.ClearSolutions.text_stub = "*Your answer here.*"
# Ours in the place of nbgrader's Execute, which runs a submission beside its tests, without protection.
c.Autograde.autograde_preprocessors = [
    Judge,
    ClearMetadataPreprocessor,
    LimitOutput,
    SaveAutoGrades,
    AssignLatePenalties,
    CheckCellMetadata,
]
# Students write Markdown, which these pages, and those for grading by hand, show in the teacher's browser.
c.HTMLExporter.filters = {"markdown2html": inert_html}
# Feedback shows only the tests that students have.
c.GenerateFeedback.preprocessors = [GetGrades, ClearHiddenTests, CSSHTMLHeaderPreprocessor]
