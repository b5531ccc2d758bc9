"""The environment's files say the same; what runs elsewhere, on Colab and on GitHub, fits them."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import dcal_lite as dl
from book.tools.colab import FROZEN, resolve

ROOT = Path(__file__).resolve().parents[1]
LOCK = (ROOT / "requirements.lock").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"].values()
DECLARED = sorted({*PROJECT["dependencies"], *(line for extra in EXTRAS for line in extra)})
PINNED = {"jupyter-book", "sphinx-book-theme"}


def locked_versions(name: str) -> list[str]:
    """The versions that the lock file has for a package: several where they depend on the Python version."""
    return re.findall(rf"^{re.escape(name)}==(\S+)", LOCK, flags=re.MULTILINE)


@pytest.mark.parametrize("line", DECLARED)
def test_lock_satisfies_each_dependency(line):
    requirement = Requirement(line)
    versions = locked_versions(requirement.name)
    assert versions, f"{requirement.name} is not in requirements.lock: run `make lock`"
    assert all(requirement.specifier.contains(version) for version in versions)


@pytest.mark.parametrize("line", DECLARED)
def test_dependencies_have_floors_only(line):
    requirement = Requirement(line)
    operators = {clause.operator for clause in requirement.specifier}
    assert operators == ({"=="} if requirement.name in PINNED else {">="})


def test_every_lock_line_is_exact_and_hashed():
    entries = re.split(r"\n(?=\S)", LOCK.strip())
    assert len(entries) > len(DECLARED)
    for entry in entries:
        assert re.match(r"[a-z0-9.-]+==\S+( ; .+)? \\\n", entry), entry
        assert "--hash=sha256:" in entry


def test_lock_names_no_host():
    assert "://" not in LOCK
    assert "index" not in re.sub(r"^\S+==.*$", "", LOCK, flags=re.MULTILINE)


def test_conda_environment_lists_the_same():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (pip,) = [entry["pip"] for entry in environment if isinstance(entry, dict)]
    assert sorted(pip) == sorted([*DECLARED, "--editable ."])
    assert f"python{PROJECT['requires-python']}" in environment


def test_the_citation_names_this_version():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == dl.__version__


COLAB = dict(re.findall(r"^(\S+)==([\d.]+\d)", FROZEN.read_text(), flags=re.MULTILINE))


@pytest.mark.parametrize("line", [line for line in DECLARED if Requirement(line).name in COLAB])
def test_colab_has_what_we_ask_for(line):
    requirement = Requirement(line)
    assert requirement.specifier.contains(COLAB[requirement.name])


@pytest.mark.parametrize(("more", "code"), [("", 0), ("numpy>=99", 1), ("numpy<2", 1), ("nbgrader>=0.9", 1)])
def test_installing_on_colab_moves_nothing(more, code):
    """nbgrader needs a newer IPython: the check follows what others need."""
    done = resolve([more])
    if done.returncode == 2:
        pytest.skip("needs a package index, and none answers")
    assert done.returncode == code, done.stderr
    assert ("numpy==" + COLAB["numpy"] in done.stdout.split()) == (code == 0)


TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / ".github/workflows").glob("*.yml")}
JOBS = {f"{name}-{job}": entry for name, workflow in WORKFLOWS.items() for job, entry in workflow["jobs"].items()}


PYTHON = (
    "-m pip install --no-deps --require-hashes --requirement requirements.lock",
    "-m pip install --no-deps --no-build-isolation --editable .",
    "-m pytest ",
)


def commands(job: dict) -> list[str]:
    """The commands of a workflow's job, one for each value of its matrix."""
    matrix = job.get("strategy", {}).get("matrix", {"target": [""]})
    filled = [{key: value} for key, values in matrix.items() for value in values]
    return [
        re.sub(r"\$\{\{ matrix\.(\w+) \}\}", lambda name, one=one: one[name[1]], step["run"])
        for step in job["steps"]
        if "run" in step
        for one in filled
    ]


def test_ci_calls_targets_that_exist():
    called = re.findall(r"^make (\S+)", (ROOT / ".ci/run").read_text(), flags=re.MULTILINE)
    assert called[0] == "lint" and called[-3:] == ["book", "tests", "notebooks"]  # some tests want the built book
    assert set(called) <= TARGETS


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_workflows_call_targets_that_exist(job):
    for command in commands(job):
        program, *arguments = command.split()
        assert program in ("make", ".ci/run", "sudo", "python", "gh")
        assert program != "make" or set(arguments) <= TARGETS
        assert program != "python" or " ".join(arguments).startswith(PYTHON)
    assert job["timeout-minutes"] <= 120


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_workflows_use_only_pinned_actions_of_github(job):
    for step in job["steps"]:
        assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", step.get("uses", "actions/none@" + 40 * "0"))


def test_workflows_have_the_least_permissions():
    assert all(workflow["permissions"] == {"contents": "read"} for workflow in WORKFLOWS.values())
    assert {name: job["permissions"] for name, job in JOBS.items() if "permissions" in job} == {
        "pages-deploy": {"pages": "write", "id-token": "write"},
        "newest-report": {"issues": "write"},
    }


def test_the_library_is_tested_on_other_systems():
    job = WORKFLOWS["check"]["jobs"]["library"]
    systems = {system.partition("-")[0] for system in job["strategy"]["matrix"]["system"]}
    assert systems == {"macos", "windows"}
    left_out = re.findall(r"--ignore (\S+)", commands(job)[-1])
    assert left_out and all((ROOT / path).is_file() for path in left_out)


OLDEST = PROJECT["requires-python"].removeprefix(">=")
COLABS = re.search(r"Python (\d+\.\d+)", FROZEN.read_text())[1]


def test_checks_run_on_the_oldest_and_on_colabs_python():
    assert WORKFLOWS["check"]["jobs"]["check"]["strategy"]["matrix"]["python"] == [OLDEST, COLABS]
    (python,) = [step["with"]["python-version"] for step in JOBS["weekly-make"]["steps"] if "with" in step]
    assert python == f"${{{{ matrix.target == 'colab-test' && '{COLABS}' || '{OLDEST}' }}}}"


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("colab", ["--constraints", str(FROZEN.relative_to(ROOT))]),
        ("floors", ["lowest-direct"]),
        ("newest", ["torch>=0.dev0"]),
    ],
)
def test_other_versions_are_tested_each_week_in_an_environment_of_their_own(name, wanted):
    command = ["make", "--dry-run", "--always-make", f"{name}-test"]
    plain = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(command, cwd=ROOT, env=plain, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    (resolved,) = {line for line in lines if "pip compile" in line}
    assert set(wanted) <= set(resolved.replace("'", "").split())
    runs = [line for line in lines if line.startswith(f".venv-{name}/bin/python -m pytest")]
    assert [run.endswith(" book") for run in runs] == [False, True]
    assert f"make {name}-test" in [command for job in JOBS.values() for command in commands(job)]


@pytest.mark.parametrize("found", ["", "an/issue"])
def test_a_failure_with_the_newest_opens_one_issue(found, tmp_path):
    """A stub of GitHub's command finds the open issues that it is told of, and notes what it is asked for."""
    (step,) = JOBS["newest-report"]["steps"]
    stub = tmp_path / "gh"
    stub.write_text('#!/bin/sh\necho "$2 $4" >>"$0.log"; test "$2" = create || printf "$FOUND"\n')
    stub.chmod(0o755)
    more = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "FOUND": found, "TITLE": "a title", "RUN": "an address"}
    subprocess.run(["bash", "-e", "-c", step["run"]], env=os.environ | more, check=True)
    asked = (tmp_path / "gh.log").read_text().splitlines()
    assert asked == ['list in:title "a title"'] + ([] if found else ["create a title"])
