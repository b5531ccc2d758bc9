"""Localisation scores against loops, and what blind maps score."""

import numpy as np
import pytest
import torch

from dcal_lite.localisation import _checked, energy_inside, iou_at_area, parts_covered, pointing_game, spread, to_pixels

MAP = torch.tensor([[[4.0, 1.0, 0.0], [3.0, 2.0, 0.0]]])
MASK = torch.tensor([[[True, False, True], [False, True, False]]])


def test_an_example_by_hand():
    assert pointing_game(MAP, MASK).tolist() == [1]
    assert energy_inside(MAP, MASK).tolist() == [pytest.approx(6 / 10)]
    assert iou_at_area(MAP, MASK).tolist() == [pytest.approx(2 / 4)]  # 4, 3, 2 chosen: two of three hit
    assert pointing_game(MAP, ~MASK).tolist() == [0]


def test_against_loops(rng):
    maps, masks = rng.random((20, 5, 7)), rng.random((20, 5, 7)) < 0.3
    scores = [f(torch.from_numpy(maps), torch.from_numpy(masks)) for f in (energy_inside, iou_at_area, pointing_game)]
    for map_, mask, energy, iou, point in zip(maps, masks, *scores, strict=True):
        assert energy.item() == pytest.approx(sum(map_[mask]) / map_.sum())
        chosen = np.zeros_like(mask)
        for index in np.argsort(-map_, axis=None)[: mask.sum()]:
            chosen.flat[index] = True
        assert iou.item() == pytest.approx((chosen & mask).sum() / (chosen | mask).sum())
        assert point.item() == mask[np.unravel_index(map_.argmax(), map_.shape)]


def test_blind_maps_score_the_area(rng):
    masks = torch.from_numpy(rng.random((200, 16, 16)) < rng.random((200, 1, 1)) * 0.8 + 0.1)
    area = masks.double().mean(dim=(1, 2))
    uniform = torch.ones(200, 16, 16)
    torch.testing.assert_close(pointing_game(uniform, masks).double(), area)
    torch.testing.assert_close(energy_inside(uniform, masks), area)
    torch.testing.assert_close(iou_at_area(uniform, masks).double(), area / (2 - area), rtol=1e-5, atol=1e-6)
    random = torch.from_numpy(rng.random((200, 16, 16)))
    gap = iou_at_area(random, masks).double() - area / (2 - area)
    assert gap.mean().abs() < 0.01
    torch.testing.assert_close(spread(uniform), torch.ones(200, dtype=torch.float64))


def test_spread_counts_equal_places():
    maps = torch.zeros(3, 4, 4)
    maps[0, 0, 0], maps[1, 0, :2], maps[2, :2] = 1, 1, 1
    torch.testing.assert_close(spread(maps), torch.tensor([0.0, 1 / 4, 3 / 4], dtype=torch.float64))


def test_parts_are_covered_one_by_one(rng):
    parts = torch.from_numpy(rng.random((30, 3, 6, 6)) < 0.05)
    parts[:, 0, 0, 0] = True
    maps = torch.from_numpy(rng.random((30, 6, 6)))
    for map_, own, share in zip(maps, parts, parts_covered(maps, parts, area=0.25), strict=True):
        best = set(np.argsort(-map_.numpy(), axis=None)[:9])
        visible = [set(np.flatnonzero(part)) for part in own.numpy() if part.any()]
        assert share.item() == pytest.approx(np.mean([bool(best & pixels) for pixels in visible]))
    assert parts_covered(maps, parts, area=1.0).eq(1).all()


def test_maps_of_patches_become_pixels():
    coarse = torch.tensor([[[0.0, 4.0]]])
    assert to_pixels(coarse, (1, 4))[0, 0].tolist() == [0, 1, 3, 4]


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="one shape expected"):
        _checked(MAP, MASK[:, :1])  # the public functions' types say the same under pytest
    with pytest.raises(ValueError, match="finite and not negative"):
        energy_inside(-MAP, MASK)
    with pytest.raises(ValueError, match="masks that show something"):
        iou_at_area(MAP, MASK & False)
    with pytest.raises(ValueError, match="points nowhere"):
        energy_inside(0 * MAP, MASK)
    with pytest.raises(ValueError, match="points nowhere"):
        spread(0 * MAP)
    with pytest.raises(ValueError, match="an area in"):
        parts_covered(MAP, MASK[:, None], area=0)
