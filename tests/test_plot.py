"""Figures show the numbers they are given."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import dcal_lite as dl


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture
def image():
    return torch.randint(0, 256, (3, 16, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_images_and_arrays_look_the_same(image):
    axes = dl.plot.show_images([image, image.permute(1, 2, 0).numpy()], ["a", "b"]).axes
    shown = [ax.images[0].get_array() for ax in axes]
    assert np.array_equal(*shown) and [ax.get_title() for ax in axes] == ["a", "b"]


def test_grids_fill_rows_and_hide_the_rest(image):
    axes = dl.plot.show_images([image] * 5, columns=3).axes
    assert len(axes) == 6 and [bool(ax.images) for ax in axes] == [True] * 5 + [False]


def test_scores_lie_on_their_patches(image):
    ax = dl.plot.show_scores(image, torch.arange(8.0), (4, 2))
    assert ax.images[1].get_array().tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert ax.images[0].get_extent() == ax.images[1].get_extent() == [0, 8, 16, 0]


def test_chosen_patches_are_framed_and_others_dimmed(image):
    ax = dl.plot.show_patches(image, torch.tensor([1, 4]), (4, 2))
    framed = [p.get_xy() for p in ax.patches if not p.get_fill()]
    assert framed == [(0.0, 0.0), (4.0, 4.0)] and len(ax.patches) == 8


def test_maps_keep_rows_as_queries():
    attention = torch.tensor([[0.1, 0.9], [0.6, 0.4]])
    ax = dl.plot.show_map(attention, values=True)
    assert [text.get_text() for text in ax.texts] == ["0.10", "0.90", "0.60", "0.40"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("key token", "query token")


def test_history_has_a_line_a_loss_in_its_colour():
    rows = [{"epoch": e, "loss/sa": 1 / e, "loss/total": -e, **({"mAP": 0.2} if e == 2 else {})} for e in (1, 2)]
    left, right = dl.plot.show_history(rows, "mAP").axes
    lines = {line.get_label(): line for line in left.lines}
    assert lines["SA"].get_ydata().tolist() == [1.0, 0.5] and lines["SA"].get_color() == dl.plot.COLOURS["sa"]
    assert lines["total"].get_ydata().tolist() == [-1, -2]
    assert right.lines[0].get_xydata().tolist() == [[2, 20]]
