"""pyproject.toml, requirements.lock and environment.yml say the same."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import dcal_lite as dl
from tests.colab import FROZEN, resolve

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


@pytest.mark.parametrize(("more", "code"), [([], 0), (["numpy>=99"], 1), (["numpy<2"], 1), (["nbgrader>=0.9"], 1)], ids=str)
def test_installing_on_colab_moves_nothing(more, code):
    """nbgrader needs a newer IPython: the check follows what others need."""
    done = resolve(more)
    if done.returncode == 2:
        pytest.skip("needs a package index, and none answers")
    assert done.returncode == code, done.stderr
    assert ("numpy==" + COLAB["numpy"] in done.stdout.split()) == (code == 0)
