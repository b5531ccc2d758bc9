"""Batches of decoded images: the same from memory and from worker processes."""

import multiprocessing

import numpy as np
import pytest
import torch

import dcal_lite as dl
from dcal_lite.data import batches
from dcal_lite.data.batches import Batches

SIZE, PLACES = (32, 16), [np.array([3, 0, 3]), np.array([7, 1, 2]), np.array([5, 6, 4])]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def split():
    return dl.load_dataset("promenade", train=3, test=2, strangers=0)["train"]


@pytest.fixture
def start(request):
    """How processes are started meanwhile: "spawn" is what macOS and Windows do; None changes nothing."""
    usual = multiprocessing.get_start_method(allow_none=True)
    if request.param:
        multiprocessing.set_start_method(request.param, force=True)
    yield
    multiprocessing.set_start_method(usual, force=True)


@pytest.mark.parametrize(("workers", "start"), [(0, None), (2, None), (1, "spawn")], indirect=["start"])
def test_batches_hold_the_images_asked_for(split, workers, start):
    found = list(Batches(split, SIZE, CPU, workers=workers)(PLACES))
    assert len(found) == len(PLACES)
    for batch, places in zip(found, PLACES, strict=True):
        alone = [split.subset([int(i)]).images(SIZE)[0] for i in places]
        assert batch.dtype == torch.uint8 and torch.equal(batch, torch.stack(alone))


@pytest.mark.parametrize(("free", "kept"), [(2.1, True), (1.9, False)])
def test_images_stay_where_half_of_the_memory_is_enough(split, monkeypatch, free, kept):
    monkeypatch.setattr(batches, "free_memory", lambda device: free * len(split) * 3 * SIZE[0] * SIZE[1])
    made = Batches(split, SIZE, CPU)
    assert (made.kept is not None) == kept and (made.workers == 0) == kept


def test_free_memory_is_below_the_machines():
    assert 2**20 < batches.free_memory(CPU) < 2**50
