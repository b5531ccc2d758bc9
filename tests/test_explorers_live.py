"""A figure with controls: still where there is no kernel, moved where there is one."""

import base64
import io
import re
import sys

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

import dcal_lite as dl


def square(side=2, colour="red", filled=True):
    """A figure of `side` inches; all of it has one colour, or only a frame."""
    return plt.figure(figsize=(side, side), facecolor=colour if filled else "w")


def seen(png: bytes):
    """Width in inches and middle pixel of a picture."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    return image.width / 100, image.getpixel((image.width // 2, image.height // 2))


@pytest.fixture
def live():
    return dl.explorers.control(square, "A square.", side=(1, 4), colour=["blue", "red"], filled=True)


def test_a_page_shows_the_figure_of_the_defaults_and_what_would_move_it(live):
    html = live.to_html()
    assert seen(base64.b64decode(re.search(r'alt="A square." src="data:image/png;base64,([^"]+)"', html)[1])) == (
        2.0, (255, 0, 0))  # fmt: skip
    assert "<p>To be set in a running notebook: side, colour, filled.</p>" in html
    assert plt.get_fignums() == []  # or the notebook would show it twice


def test_controls_move_the_figure(live, capsys):
    box = live.widget()
    side, colour, filled = box.kwargs_widgets
    image = box.children[-1]
    assert [side.value, colour.value, filled.value] == [2, "red", True]
    assert seen(image.value) == (2.0, (255, 0, 0))
    side.value = 3
    colour.value = "blue"
    assert seen(image.value) == (3.0, (0, 0, 255))
    filled.value = False
    assert seen(image.value) == (3.0, (255, 255, 255))
    assert plt.get_fignums() == []


def test_a_live_notebook_gets_a_widget_and_any_other_reader_the_figure(live, capsys):
    bundle = live._repr_mimebundle_()
    assert bundle["text/html"] == live.to_html()
    assert re.fullmatch("[0-9a-f]{32}", bundle["application/vnd.jupyter.widget-view+json"]["model_id"])


def test_without_ipywidgets_the_figure_stands_still(live, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    assert set(live._repr_mimebundle_()) == {"text/html", "text/plain"}


def test_names_are_shown_as_words(capsys):
    shown = dl.explorers.control(lambda peak_rate=0.5: square(), "A square.", peak_rate=(0.0, 1.0))
    assert "notebook: peak rate." in shown.to_html()
    slider = shown.widget().kwargs_widgets[0]
    assert slider.description == "peak rate" and np.isclose(slider.value, 0.5)
