"""The interactive figures: in a browser, without a network, they say what Python computes."""

import base64
import json
import re
import shutil

import numpy as np
import pytest
import torch

import dcal_lite as dl
from dcal_lite.data.transforms import prepare

CHROMIUM = shutil.which("chromium")
browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: `make browser` installs Debian's")


@pytest.fixture(scope="module")
def people():
    """A model and three images of Promenade, as it takes them and to look at."""
    model = dl.load_model("promenade-dcal")
    pictures = dl.load_dataset("promenade", train=8, test=8, strangers=8)["query"].images(model.img_size)[:3]
    return model, prepare(pictures, model.img_size, mean=(0.5,) * 3, std=(0.5,) * 3), pictures


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture
def show(chromium, tmp_path):
    """Open an explorer as a file in a phone's browser that reaches no network; fail on any message to the console."""
    context = chromium.new_context(viewport={"width": 390, "height": 800}, has_touch=True, offline=True)
    page, messages = context.new_page(), []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: request.url.startswith("http") and messages.append(request.url))

    def opened(explorer):
        file = tmp_path / "page.html"
        file.write_text(f"<!doctype html><html lang=en><body>{explorer.to_html()}</body></html>", encoding="utf-8")
        page.goto(file.as_uri())
        return page

    yield opened
    context.close()
    assert messages == []


def test_numbers_survive_their_journey():
    values = torch.rand(3, 4, dtype=torch.float64)
    received = np.frombuffer(base64.b64decode(dl.explorers.encode(values)), "<u2") / 65535
    np.testing.assert_allclose(received.reshape(3, 4), values, rtol=0, atol=1 / 131070)


def test_an_explorer_is_small_and_stands_for_itself(people):
    model, images, pictures = people
    explorer = dl.explorers.rollout(model, images, pictures)
    html = explorer.to_html()
    assert len(html) < 300_000
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", html)
    assert html.count("</script>") == 1
    assert re.search(r'<noscript><img alt="[^"]{20,}" src="data:image/png;base64,', html)


def test_in_a_live_notebook_it_is_a_widget_with_the_same_module_and_data(people):
    explorer = dl.explorers.rollout(people[0], *[x[:1] for x in people[1:]])
    bundle, _ = explorer._repr_mimebundle_()
    assert {"text/html", "text/plain", "application/vnd.jupyter.widget-view+json"} <= bundle.keys()
    widget = explorer.widget()
    assert widget._esm == explorer.module
    assert widget.data == json.loads(json.dumps(explorer.data))


def shares(text: str) -> list[float]:
    """The percentages of a sentence."""
    return [float(number) for number in re.findall(r"([\d.]+) %", text)]


def expected(maps, token: int, layer: int, residual: float) -> list[float]:
    """The percentages that the rollout explorer should name, by full matrix products."""
    single = maps.mean(dim=1)[layer - 1]
    eye = torch.eye(single.shape[0], dtype=single.dtype)
    product = eye
    for attention in maps.mean(dim=1)[:layer]:
        product = ((1 - residual) * attention + residual * eye) @ product
    return [100 * x.item() for row in (single[token], product[token]) for x in (row[1:].max(), row[token])]


@browser
def test_rollout_by_touch_mouse_and_keyboard(people, show):
    model, images, pictures = people
    maps = dl.attention_maps(model, images).double()  # layer, image, head, query, key
    page = show(dl.explorers.rollout(model, images, pictures))
    says = page.locator(".says")

    def agrees(image: int, token: int, layer: int, residual: float) -> None:
        assert shares(says.inner_text()) == pytest.approx(expected(maps[:, image], token, layer, residual), abs=0.06)

    agrees(image=0, token=0, layer=6, residual=0.5)
    page.locator("[data-token='14']").tap()
    assert says.inner_text().startswith("The patch in row 4, column 2 asks.")
    agrees(image=0, token=14, layer=6, residual=0.5)
    page.keyboard.press("ArrowDown")
    agrees(image=0, token=18, layer=6, residual=0.5)
    page.get_by_role("slider", name="layer").fill("3")
    page.get_by_role("slider", name="residual weight").fill("0.2")
    agrees(image=0, token=18, layer=3, residual=0.2)
    page.get_by_role("combobox", name="image").select_option(index=2)
    page.locator("[data-token='7']").hover()
    assert says.inner_text().startswith("The patch in row 2, column 3 asks.")
    agrees(image=2, token=7, layer=3, residual=0.2)
    page.get_by_role("combobox", name="head").select_option(index=2)
    one = 100 * maps[2, 2, 1, 7, 1:].max().item()
    assert shares(says.inner_text())[0] == pytest.approx(one, abs=0.06)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
