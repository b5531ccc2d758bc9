"""Explorers and controls in JupyterLab: drawn from a kernel, and moved through it."""

import os
import socket
import subprocess
import sys
import time
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

import nbformat
import pytest
from PIL import Image

from tests.conftest import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SHOWN = """\
from functools import partial
import dcal_lite as dl
from dcal_lite.data.transforms import prepare

people = dl.load_dataset("promenade", train=4, test=8, strangers=4)["query"].images((64, 32))[:3]
dcal, cnn = (dl.load_recipe(name, preset="toy") for name in ("dcal-reid", "rga-reid"))
look = {"mean": dcal.mean, "std": dcal.std}
model, rga, hacnn = (dl.load_model(f"promenade-{name}") for name in ("dcal", "rga", "hacnn"))
seen, seen_by_cnn = (prepare(people, (64, 32), mean=x.mean, std=x.std) for x in (dcal, cnn))
kinds = {kind: people for kind in ("match", "same_camera", "other")}


def bar(height=1):
    figure, ax = dl.plot.plt.subplots(figsize=(2, 2))
    ax.bar(0, height)
    ax.set(ylim=(0, 5))
    return figure
""", *(f"dl.explorers.{call}" for call in (
    'control(bar, "A bar.", height=(1, 5))',
    "upload(partial(dl.explorers.rollout, model), people, **look)",
    "glca(model, seen, people)",
    'pwca(model, seen, people, ["second", "third"])',
    "rga(rga, seen_by_cnn, people)",
    "hacnn(hacnn, seen_by_cnn, people)",
    'ranking(people[0], kinds, ["match", "other", "match"], [1.0, 2.0, 3.0])',
))  # fmt: skip


@pytest.fixture
def lab(tmp_path):
    """The address of a JupyterLab with a notebook, in a folder and with settings of its own."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in SHOWN])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    (tmp_path / "work").mkdir()
    nbformat.write(notebook, tmp_path / "work" / "shown.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {f"JUPYTER_{kind}_DIR": str(tmp_path / kind) for kind in ("CONFIG", "DATA", "RUNTIME")}
    own |= {f"JUPYTERLAB_{kind}_DIR": str(tmp_path / kind) for kind in ("SETTINGS", "WORKSPACES")}
    options = ["--no-browser", "--allow-root", "--IdentityProvider.token=", f"--port={port}"]
    command = [sys.executable, "-m", "jupyterlab", *options, f"--ServerApp.root_dir={tmp_path / 'work'}"]
    env = {**os.environ, **own, "PYTHONPATH": str(ROOT)}
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    address, direct = f"http://127.0.0.1:{port}", build_opener(ProxyHandler({}))  # no proxy knows this machine's server
    for _ in range(120):
        try:
            direct.open(f"{address}/api").close()
            break
        except URLError:
            time.sleep(1)
    yield f"{address}/lab/tree/shown.ipynb"
    server.terminate()
    server.wait(30)


def test_in_jupyterlab_every_explorer_draws_and_reacts(lab, chromium, tmp_path):
    page, faults = chromium.new_page(viewport={"width": 1280, "height": 1000}), []
    page.set_default_timeout(120_000)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(lab)
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    cells = page.locator(".jp-Notebook .jp-Cell")

    image = cells.nth(1).locator(".jupyter-widgets img")
    image.wait_for()
    before = image.get_attribute("src")
    cells.nth(1).locator(".noUi-handle").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("old => document.querySelector('.jupyter-widgets img').src !== old", arg=before)

    for number in range(2, len(SHOWN)):
        explorer = cells.nth(number).locator(".jp-OutputArea .explorer")
        explorer.scroll_into_view_if_needed()
        before = explorer.inner_text()
        first = "input[type=range]" if "hacnn(" in SHOWN[number] else "[role=radio][tabindex='0']"
        explorer.locator(first).first.focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        assert explorer.inner_text() != before, f"{SHOWN[number]} does not heed the keyboard"

    upload = cells.nth(2).locator(".explorer")
    before = upload.locator("image").first.get_attribute("href")
    Image.new("RGB", (300, 400), "red").save(tmp_path / "red.png")
    upload.locator("input[type=file]").set_input_files(tmp_path / "red.png")
    page.wait_for_function(
        "old => !document.querySelectorAll('.jp-Cell')[2].querySelector('.explorer image').getAttribute('href')"
        ".startsWith(old)", arg=before)  # fmt: skip
    page.screenshot(path=tmp_path / "lab.png")
    page.close()
    assert faults == []
