"""Batched augmentation against the same steps, image by image."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from dcal_lite.data.transforms import _boxes, augment, prepare

MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)


def pictures(rng, count=16, height=12, width=9):
    """Images of which no two pixels look alike."""
    return torch.from_numpy(rng.integers(1, 256, (count, 3, height, width), dtype=np.uint8))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def bytes_of(images, mean, std):
    """Undo the normalisation; far from a whole number where noise was put."""
    return (images.double() * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1)) * 255


def windows(image, size, pad):
    """Every crop of one padded image, as it is and flipped."""
    padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)))
    for top in range(padded.shape[1] - size[0] + 1):
        for left in range(padded.shape[2] - size[1] + 1):
            window = padded[:, top : top + size[0], left : left + size[1]]
            yield (top, left, False), window
            yield (top, left, True), window[:, :, ::-1]


@pytest.mark.parametrize(("size", "pad"), [((12, 9), 3), ((8, 7), 0), ((10, 9), 2)])
def test_every_image_is_one_of_its_windows(rng, size, pad):
    images = pictures(rng)
    result = augment(images, size, seeded(), pad=pad, erase=0.0, mean=MEAN, std=STD)
    assert result.dtype == torch.float32
    pixels = bytes_of(result, MEAN, STD).numpy()
    for image, out in zip(images.numpy(), pixels, strict=True):
        assert any(np.abs(window - out).max() < 0.01 for _, window in windows(image, size, pad))


def test_all_windows_are_equally_likely(rng):
    image = pictures(rng, 1, 4, 3)
    pixels = bytes_of(augment(image.expand(6000, 3, 4, 3), (4, 3), seeded(), pad=1, erase=0.0), (0.5,) * 3, (0.5,) * 3)
    pixels = pixels.round().to(torch.uint8).numpy()
    counts = [(pixels == window).all(axis=(1, 2, 3)).sum() for _, window in windows(image[0].numpy(), (4, 3), 1)]
    assert sum(counts) == 6000
    assert stats.chisquare(counts).pvalue > 0.001


def test_enlarged_images_are_windows_of_a_larger_one(rng):
    images = pictures(rng, 64, 16, 8)
    pixels = bytes_of(
        augment(images, (16, 8), seeded(), flip=0.0, pad=0, enlarge=0.5, erase=0.0), (0.5,) * 3, (0.5,) * 3
    )
    same, moved = 0, 0
    for image, out in zip(images, pixels.round().byte(), strict=True):
        larger = np.asarray(Image.fromarray(image.permute(1, 2, 0).numpy()).resize((9, 18), Image.Resampling.BILINEAR))
        crops = [(window, key) for key, window in windows(larger.transpose(2, 0, 1), (16, 8), 0) if not key[2]]
        same += torch.equal(out, image)
        moved += any(np.abs(window - out.numpy().astype(int)).max() <= 1 for window, _ in crops)
    assert same + moved == 64 and 16 < same < 48


def test_boxes_can_be_erased_by_the_mean(rng):
    result = augment(pictures(rng, 32), (12, 9), seeded(), flip=0.0, pad=0, erase=1.0, erase_noise=False, mean=MEAN)
    assert ((result == 0).all(dim=1).flatten(1).sum(1) >= 1).all()


def test_flip_probability(rng):
    images = pictures(rng, 8)
    plain = prepare(images, (12, 9), mean=MEAN, std=STD)
    for flip, expected in [(0.0, plain), (1.0, plain.flip(3))]:
        assert torch.equal(
            augment(images, (12, 9), seeded(), flip=flip, pad=0, erase=0.0, mean=MEAN, std=STD), expected
        )


def test_erased_pixels_are_one_box_of_noise(rng):
    images = pictures(rng, 400, 32, 16)
    plain = prepare(images, (32, 16), mean=MEAN, std=STD)
    result = augment(images, (32, 16), seeded(), flip=0.0, pad=0, erase=1.0, mean=MEAN, std=STD)
    noise = []
    for out, before in zip(result, plain, strict=True):
        changed = (out != before).all(dim=0)
        assert torch.equal(changed, (out != before).any(dim=0))
        rows, columns = changed.any(dim=1), changed.any(dim=0)
        assert torch.equal(changed, rows[:, None] & columns)  # one rectangle, without gaps:
        assert rows.nonzero().flatten().diff().eq(1).all()
        assert columns.nonzero().flatten().diff().eq(1).all()
        noise.append(out[:, changed].flatten())
    assert stats.kstest(torch.cat(noise)[:20_000], "norm").pvalue > 0.001


def boxes_by_loop(size, count, rng):
    """Heights and widths as timm draws them: the first of ten attempts that fits."""
    found = []
    for _ in range(count):
        for _ in range(10):
            area = rng.uniform(0.02, 1 / 3) * size[0] * size[1]
            aspect = np.exp(rng.uniform(np.log(0.3), -np.log(0.3)))
            height, width = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
            if height < size[0] and width < size[1]:
                found.append((height, width))
                break
    return np.array(found)


def test_boxes_have_the_distribution_of_timm(rng):
    size = (64, 32)
    top, bottom, left, right = _boxes(20_000, size, 1.0, seeded()).numpy().T
    heights, widths = boxes_by_loop(size, 20_000, rng).T
    assert stats.ks_2samp(bottom - top, heights).pvalue > 0.001
    assert stats.ks_2samp(right - left, widths).pvalue > 0.001
    place = top / (size[0] - (bottom - top))  # uniform, whatever the height
    assert top.min() == left.min() == 0
    assert (bottom.max(), right.max()) == size
    assert abs(place.mean() - 0.5) < 0.01


def test_erase_probability():
    boxes = _boxes(10_000, (64, 32), 0.3, seeded())
    assert abs((boxes[:, 1] > boxes[:, 0]).double().mean() - 0.3) < 0.02
    assert not _boxes(100, (64, 32), 0.0, seeded()).any()


def test_the_seed_decides(rng):
    images = pictures(rng)
    first = augment(images, (12, 9), seeded(1))
    assert torch.equal(first, augment(images, (12, 9), seeded(1)))
    assert not torch.equal(first, augment(images, (12, 9), seeded(2)))


def test_parts_are_augmented_like_the_whole(rng):
    images = pictures(rng, 8)
    for options in ({"pad": 2}, {"pad": 0, "enlarge": 0.5}):
        whole = augment(images, (12, 9), seeded(), erase=0.7, **options)
        parts = [slice(0, 2), slice(2, 8)]
        halves = [augment(images[p], (12, 9), seeded(), erase=0.7, part=p, batch_size=8, **options) for p in parts]
        assert torch.equal(torch.cat(halves), whole)


def test_the_global_generator_is_left_alone(rng):
    before = torch.get_rng_state()
    augment(pictures(rng), (12, 9), seeded())
    assert torch.equal(before, torch.get_rng_state())


def test_the_generator_moves_on(rng):
    images, generator = pictures(rng), seeded()
    assert not torch.equal(augment(images, (12, 9), generator), augment(images, (12, 9), generator))


def test_prepare_crops_the_centre(rng):
    images = pictures(rng, 2, 12, 9)
    result = prepare(images, (7, 4), mean=MEAN, std=STD)
    for channel in range(3):
        expected = (images[:, channel, 2:9, 2:6].double() / 255 - MEAN[channel]) / STD[channel]
        torch.testing.assert_close(result[:, channel].double(), expected, rtol=1e-6, atol=1e-6)


def test_an_empty_batch_stays_empty():
    assert augment(torch.zeros(0, 3, 8, 8, dtype=torch.uint8), (8, 8), seeded()).shape == (0, 3, 8, 8)


def test_small_images_are_refused(rng):
    with pytest.raises(ValueError, match="cannot crop 13 x 9 pixels from 12 x 9: decode the images larger"):
        prepare(pictures(rng), (13, 9), mean=MEAN, std=STD)
    with pytest.raises(ValueError, match="cannot crop 15 x 9 pixels from 14 x 11"):
        augment(pictures(rng), (15, 9), seeded(), pad=1)
    with pytest.raises(ValueError, match=r"pad=0 or enlarge=0 expected, got 1 and 0\.5"):
        augment(pictures(rng), (12, 9), seeded(), pad=1, enlarge=0.5)


@pytest.mark.gpu
def test_the_same_choices_on_the_gpu(rng):
    images = pictures(rng)
    here, there = (augment(x, (12, 9), seeded(), erase=0.0) for x in (images, images.cuda()))
    torch.testing.assert_close(there.cpu(), here, rtol=1e-6, atol=1e-6)
    erased = [augment(images.cuda(), (12, 9), seeded()) for _ in range(2)]
    assert torch.equal(*erased)
