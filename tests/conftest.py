"""What every test shares. The import hook comes first: it checks the shapes and types of all public signatures."""

import os
import shutil
from pathlib import Path

from jaxtyping import install_import_hook

import tests.typecheck  # noqa: F401  the hook names it

install_import_hook("dcal_lite", "tests.typecheck.check")

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]

CHROMIUM = shutil.which("chromium")

settings.register_profile("repeatable", derandomize=True)  # `make test-all` takes hypothesis' own, random one
settings.load_profile("repeatable")
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))  # pytest-xdist keeps the other cores busy


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests that need a GPU, a browser or POSIX where there is none."""
    reasons = {}
    if not torch.cuda.is_available():
        reasons["gpu"] = "needs a CUDA device, and this machine has none"
    if CHROMIUM is None:
        reasons["browser"] = "needs Chromium: `make browser` installs Debian's"
    if os.name != "posix":
        reasons["posix"] = "needs the signals, limits or process groups of POSIX"
    for item in items:
        for mark, reason in reasons.items():
            if item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the real data, which stands beside the repository and is not a part of it."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the real data in ../shared/data, and there is no such folder")
    return folder


@pytest.fixture(scope="session")
def chromium():
    """A headless browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator of random numbers, the same in every run."""
    return np.random.default_rng(0)
