"""Other systems than ours: Windows' habits, folders with blanks and other letters, a home that cannot be written to."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Every module, then an archive that is unpacked, read into a cache and trained with.
AS_ON_WINDOWS = """
import sys, warnings
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from tests import windows
windows.pytest_configure()
warnings.filterwarnings("error", category=EncodingWarning, module=r"(dcal_lite|data_scripts)\\b")
import data_scripts, dcal_lite
from data_scripts.__main__ import main as data
for package in (dcal_lite, data_scripts):
    for module in walk_packages(package.__path__, f"{package.__name__}."):
        import_module(module.name)
root = Path(sys.argv[1])
assert data(["miniature", "market1501", "--root", str(root)]) == 0
assert data(["fetch", "market1501", "--root", str(root)]) == 0
recipe = dcal_lite.load_recipe("dcal-reid", preset="smoke", dataset="market1501", epochs=1, batch_size=8,
                               dataset_args={"check_counts": False})
run = dcal_lite.fit(recipe, root=root, output=root / "run", progress=False)
dcal_lite.load_model(run.folder / "model.safetensors")
for path in [*run.folder.glob("*.yaml"), *run.folder.glob("*.json*")]:
    assert b"\\r" not in path.read_bytes(), path
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Windows' habits are forced on Linux only")
def test_the_library_works_with_windows_habits(tmp_path):
    command = [sys.executable, "-X", "warn_default_encoding", "-c", AS_ON_WINDOWS, tmp_path]
    own = {"PYTHONPATH": str(ROOT), "DCAL_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env={**os.environ, **own}, cwd=tmp_path, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert "UserWarning" not in done.stderr  # as of a cache that cannot be used


@pytest.fixture
def make(tmp_path):
    """Runs make in a copy of the Makefile, in a folder with a blank and other letters."""
    if not shutil.which("make"):
        pytest.skip("needs make")
    folder = tmp_path / "β ü" / "my book"
    for name in ("dcal_lite", "book"):
        (folder / name).mkdir(parents=True)
    (folder / "dcal_lite" / "__init__.py").touch()
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copyfile(ROOT / name, folder / name)

    def make(*words: str, **environment: str) -> str:
        command = ["make", "--no-print-directory", *words]
        plain = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
        done = subprocess.run(command, cwd=folder, env=plain | environment, capture_output=True, text=True)
        assert done.returncode == 0 and done.stderr == "", done.stderr
        return done.stdout

    make.folder = folder
    return make


def environment_of(folder, library):
    """An environment that is ready, and finds the library in a folder."""
    (folder / ".venv" / "bin").mkdir(parents=True)
    python = folder / ".venv" / "bin" / "python"
    code = f"import sys; sys.path.insert(0, {str(library)!r}); exec(sys.argv[1])"
    python.write_text(f'#!/bin/sh\n[ $2 = -c ] && exec \'{sys.executable}\' -I -c "{code}" "$3"\n', encoding="utf-8")
    python.chmod(0o755)
    (folder / ".venv" / "ready").touch()


@pytest.mark.posix
@pytest.mark.parametrize("ours", [True, False])
def test_only_an_environment_of_another_folder_is_made_anew(make, tmp_path, ours):
    (tmp_path / "dcal_lite").mkdir()
    (tmp_path / "dcal_lite" / "__init__.py").touch()
    environment_of(make.folder, make.folder if ours else tmp_path)
    assert ("venv --clear" in make("--dry-run", "setup")) == (not ours)
    assert "Nothing to be done" in make("setup") if ours else (make.folder / ".venv" / "ready").exists()


@pytest.mark.posix
def test_reading_the_makefile_changes_nothing(make):
    environment_of(make.folder, make.folder.parent)
    before = sorted(make.folder.rglob("*"))
    make("--dry-run", "help")
    assert sorted(make.folder.rglob("*")) == before


@pytest.mark.posix
def test_a_home_that_cannot_be_written_to_is_replaced(make):
    (make.folder / "show.mk").write_text("show: ; @echo $$HOME\n", encoding="utf-8")
    show = "--file=Makefile", "--file=show.mk", "show"
    assert make(*show, HOME=str(make.folder)) == f"{make.folder}\n"
    assert make(*show, HOME="/nonexistent") == f"{make.folder}/_build/home\n"


@pytest.mark.posix
def test_targets_run_one_after_the_other(make):
    (make.folder / "two.mk").write_text("a: ; @sleep 0.3; echo a\nb: ; @echo b\n", encoding="utf-8")
    assert make("--jobs=4", "--file=Makefile", "--file=two.mk", "a", "b") == "a\nb\n"
