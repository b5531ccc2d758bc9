import pytest
import torch

import dcal_lite as dl
from dcal_lite.attention_rollout import row_chain
from tests.oracles import rollout_by_loops


def random_maps(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).mul(2).softmax(-1)


@pytest.fixture
def maps():
    return random_maps(3, 2, 4, 5, 5)


@pytest.mark.parametrize("residual", [0.0, 0.3, 0.5, 1.0])
def test_rollout_equals_loops(maps, residual):
    torch.testing.assert_close(dl.rollout(maps, residual=residual), rollout_by_loops(maps, residual))


def test_the_first_layer_is_the_rightmost_factor(maps):
    first, second, third = (dl.mix_residual(layer) for layer in maps.mean(2))
    right, wrong = third @ second @ first, first @ second @ third
    assert (right - wrong).abs().max() > 1e-2, "the layers commute: the test would prove nothing"
    torch.testing.assert_close(dl.rollout(maps), right)


def test_rows_sum_to_one_without_renormalising(maps):
    torch.testing.assert_close(dl.rollout(maps).sum(-1), torch.ones(2, 5, dtype=torch.float64))


@pytest.mark.parametrize("residual", [0.0, 0.3, 0.5, 1.0])
def test_row_chain_is_the_products_first_row(maps, residual):
    torch.testing.assert_close(dl.cls_rollout(maps, residual=residual), dl.rollout(maps, residual=residual)[:, 0])


def test_row_chain_takes_a_generator_and_one_map_at_a_time(maps):
    alive = []

    def layers():
        for layer in reversed(maps.mean(2).unbind()):
            alive.append(len(alive))
            yield layer

    torch.testing.assert_close(row_chain(layers()), dl.cls_rollout(maps))
    assert alive == [0, 1, 2]


def test_identity_maps_keep_everything_in_the_class_token():
    maps = torch.eye(4, dtype=torch.float64).expand(3, 1, 2, 4, 4)
    torch.testing.assert_close(dl.cls_rollout(maps), torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64))


def test_half_precision_maps_keep_the_selection():
    maps = random_maps(12, 4, 3, 129, 129, dtype=torch.float32)
    exact = dl.top_patches(dl.cls_rollout(maps), 0.1).sort(1).values
    half = dl.cls_rollout(maps.bfloat16())
    assert half.dtype == torch.float32
    rough = dl.top_patches(half, 0.1).sort(1).values
    shared = [len(set(a.tolist()) & set(b.tolist())) / len(a) for a, b in zip(exact, rough, strict=True)]
    assert sum(shared) / len(shared) > 0.8  # nearly uniform random maps: the hardest case


def test_autocast_does_not_coarsen_the_chain(maps):
    maps = maps.float()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(dl.cls_rollout(maps), dl.rollout(maps.double())[:, 0].float(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("residual", [-0.1, 1.5])
def test_bad_residual(maps, residual):
    for function in (dl.rollout, dl.cls_rollout):
        with pytest.raises(ValueError, match=r"residual weight in \[0, 1\]"):
            function(maps, residual=residual)


def test_no_layer():
    with pytest.raises(ValueError, match="at least one layer"):
        row_chain([])
