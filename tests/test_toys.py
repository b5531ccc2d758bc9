"""Plumage and Promenade: what is drawn is a function of (seed, index), and the masks tell the truth."""

import hashlib
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import combinations

import numpy as np
import pytest

from dcal_lite.data import load_dataset, plumage, promenade
from dcal_lite.data.drawing import (
    Brush,
    Canvas,
    Chance,
    Ellipse,
    Frame,
    Leaf,
    Shape,
    Slab,
    Stroke,
    Union,
    World,
    lightness,
)
from dcal_lite.data.plumage import CODES, SPECIES, Plumage
from dcal_lite.data.promenade import CAMERAS, SHOTS, STRANGERS, Promenade, index_of

WORLDS = [Plumage(), Promenade()]
each_world = pytest.mark.parametrize("world", WORLDS, ids=lambda world: type(world).__name__)


def _image(world: World, index: int) -> np.ndarray:
    return world.draw(index).image


def _alike(world: World, index: int) -> list[int]:
    """The labels that look alike, the one of `index` among them."""
    first, count = (0, len(CODES)) if isinstance(world, Plumage) else (1, 2)
    start = (world.draw(index).label - first) // count * count + first
    return list(range(start, start + count))


# The picture is a function of (seed, index)


@each_world
def test_order_process_and_masks_do_not_change_a_picture(world: World) -> None:
    indices = [0, 1, 17, 500, 1_000_003]
    forward = [_image(world, i) for i in indices]
    backward = [_image(world, i) for i in reversed(indices)][::-1]
    bare = [world.draw(i, masks=False).image for i in indices]
    with ProcessPoolExecutor(1) as pool:
        elsewhere = list(pool.map(partial(_image, world), indices))
    for others in (backward, bare, elsewhere):
        assert all(np.array_equal(a, b) for a, b in zip(forward, others, strict=True))
    assert not np.array_equal(forward[0], forward[1])


@pytest.mark.parametrize(
    ("world", "digest"),
    [(Plumage(), "9212c40783ed38e7"), (Promenade(), "ae034b5db2eae657"), (Plumage(3, (48, 40)), "67f9a53c603d10aa")],
)
def test_pictures_are_the_same_on_every_platform(world: World, digest: str) -> None:
    pixels = hashlib.sha256()
    for index in (0, 1, 7, 100, 1_000_003):
        drawing = world.draw(index)
        for array in (drawing.image, drawing.figure, *drawing.masks.values()):
            pixels.update(array.tobytes())
    assert pixels.hexdigest()[:16] == digest


def test_random_numbers_are_the_top_bits_of_pcg64() -> None:
    bits = np.random.PCG64(np.random.SeedSequence((5, 9)))
    chance = Chance(5, 9)
    assert [chance.uniform() for _ in range(100)] == [(int(bits.random_raw()) >> 11) / 2**53 for _ in range(100)]
    assert Chance(5, 10).uniform() != Chance(5, 9).uniform() != Chance(6, 9).uniform()


def test_sample_takes_different_options() -> None:
    chance = Chance(1)
    seen = {tuple(chance.sample("abc", 2)) for _ in range(200)}
    assert seen == {(a, b) for a in "abc" for b in "abc" if a != b}


@each_world
def test_every_size_shows_the_same_scene(world: World) -> None:
    """Pictures drawn larger and averaged are the small ones, but for the width of the soft edge."""
    height, width = world.size
    large = type(world)(world.seed, (4 * height, 4 * width))
    for index in (3, 10, 1_000_003):
        small, big = world.draw(index), large.draw(index)
        mean = big.image.reshape(height, 4, width, 4, 3).mean(axis=(1, 3))
        assert (small.label, small.camera) == (big.label, big.camera)
        assert np.abs(small.image - mean).mean() < 3
        for part, mask in small.masks.items():
            assert not (big.masks[part].reshape(height, 4, width, 4).any(axis=(1, 3)) & ~_grown(mask)).any()


@pytest.mark.parametrize("size", [(32, 32), (48, 48), (33, 71), (256, 128), (224, 224)])
@each_world
def test_any_size(world: World, size: tuple[int, int]) -> None:
    drawing = type(world)(1, size).draw(4)
    assert drawing.image.shape == (*size, 3) and drawing.image.dtype == np.uint8
    assert all(mask.shape == size and mask.dtype == bool for mask in (drawing.figure, *drawing.masks.values()))


def _grown(mask: np.ndarray) -> np.ndarray:
    padded = np.pad(mask, 1)
    return np.any([padded[i : i + mask.shape[0], j : j + mask.shape[1]] for i in range(3) for j in range(3)], axis=0)


# The masks tell the truth


@each_world
def test_look_alikes_differ_inside_the_masks_only(world: World) -> None:
    differ = []
    for index in range(0, 210, 7):
        labels = _alike(world, index)
        twins = [world.draw(index, label) for label in labels]
        assert [twin.label for twin in twins] == labels and all(len(twin.masks) == 3 for twin in twins)
        for one, two in combinations(twins, 2):
            different = (one.image != two.image).any(axis=2)
            assert not (different & ~np.any([*one.masks.values(), *two.masks.values()], axis=0)).any()
            differ.append(different.any())
    assert np.mean(differ) > 0.95  # an obstacle may hide all that differs, but seldom does


def test_two_marks_tell_the_species_and_one_does_not() -> None:
    for part in range(3):
        assert {code[part] for code in CODES} == {0, 1}
        assert len({code[:part] + code[part + 1 :] for code in CODES}) == len(CODES)
    assert len({species.name for species in SPECIES}) == len(SPECIES) == 24


def test_parts_are_visible_without_colour_vision() -> None:
    """Drawing a bird with and without a mark changes the lightness of most of the mark's pixels."""
    for label in range(0, len(SPECIES), len(CODES)):
        plain = Plumage().draw(24 + label, label)
        for code in range(1, len(CODES)):
            marked = Plumage().draw(24 + label, label + code)
            light = [image @ np.array([0.299, 0.587, 0.114]) for image in (plain.image, marked.image)]
            present = [part for bit, part in zip(CODES[code], marked.masks, strict=True) if bit]
            for part in present:
                assert np.abs(light[1] - light[0])[marked.masks[part]].mean() > 15, SPECIES[label + code].name
    for person in range(1, 200, 2):
        outfit, own = promenade._dress(0, person)
        twin_outfit, other = promenade._dress(0, person + 1)
        assert outfit == twin_outfit and own.keys() == other.keys() and len(own) == 3
        for part in own:
            assert own[part] is None or other[part] is None or abs(lightness(own[part]) - lightness(other[part])) > 0.2


@each_world
def test_parts_are_seen_and_lie_on_the_figure(world: World) -> None:
    seen, inside = [], []
    for index in range(0, 200, 3):
        drawing = world.draw(index)
        for mask in drawing.masks.values():
            seen.append(mask.sum())
            inside.append((mask & drawing.figure).sum())
        assert 0.08 < drawing.figure.mean() < 0.6
    assert np.mean(np.array(seen) > 0) > 0.9
    assert 5 < np.median(seen) < 0.03 * drawing.figure.size
    assert sum(inside) > 0.9 * sum(seen)  # the place of a cap that is not worn is partly air


def test_obstacles_cut_the_masks() -> None:
    canvas = Canvas((40, 60), aspect=1.5, parts=("dot", "bar"))
    figure = [
        Stroke(Slab(0, -0.4, 0.4, 0.4, 0.4), (1, 0, 0)),
        Stroke(Ellipse(0, 0, 0.2, 0.2), (0, 1, 0), "dot"),
        Stroke(Slab(0, -0.3, -0.25, 0.3, 0.3), None, "bar"),
    ]
    canvas.paint_figure(figure, Frame(0.75, 0.5, scale=1.0))
    before = canvas.drawing(0)
    canvas.paint(Slab(1.0, -0.5, 1.5, 0.26, 0.26), (0, 0, 1))
    after = canvas.drawing(0)
    blue = (after.image == (0, 0, 255)).all(axis=2)
    x, y = np.meshgrid((np.arange(60) + 0.5) / 40, (np.arange(40) + 0.5) / 40)
    dot = np.hypot(x - 0.75, y - 0.5) < 0.2 + 0.5 / 40  # the pixels that the dot reaches
    assert blue[:, 30:50].all() and not blue[:, :29].any()
    assert np.array_equal(after.masks["dot"], before.masks["dot"] & ~blue)
    assert np.array_equal(after.figure, before.figure & ~blue)
    assert np.array_equal(before.masks["dot"], dot)
    assert before.masks["bar"].any() and not (before.image == 0).all(axis=2)[before.masks["bar"]].any()


@pytest.mark.parametrize(
    "shape",
    [
        Ellipse(0.1, 0.0, 0.3, 0.3),
        Ellipse(0.1, 0.0, 0.4, 0.2),
        Brush(-0.3, -0.1, 0.2, 0.3, 0.05, 0.15),
        Leaf(0.45),
        Slab(0.0, -0.3, 0.4, 0.1, 0.3, 0.05),
        Union(Ellipse(0, 0, 0.2, 0.1), Ellipse(0.2, -0.2, 0.1, 0.1), 0.1),
    ],
)
def test_the_painted_share_of_a_pixel_is_its_covered_share(shape: Shape) -> None:
    """Count sub-pixels, 16 x 16 in each pixel, in a frame that is turned, mirrored and scaled."""
    size, fine = 48, 16
    frame = Frame(0.45, 0.55, scale=0.8, tilt=0.3, flip=True)
    canvas = Canvas((size, size))
    canvas.paint(shape, (1.0, 1.0, 1.0), frame)
    painted = canvas.drawing(0).image[..., 0] / 255
    grid = (np.arange(size * fine) + 0.5) / (size * fine)
    angle = 2 * np.arctan(0.3)
    x, y = (grid[None, :] - 0.45) / 0.8, (grid[:, None] - 0.55) / 0.8
    x, y = -(np.cos(angle) * x + np.sin(angle) * y), np.cos(angle) * y - np.sin(angle) * x
    covered = (shape.distance(x, y) < 0).reshape(size, fine, size, fine).mean(axis=(1, 3))
    assert covered.max() == 1 and np.abs(painted - covered).max() < 0.4
    assert np.abs(painted - covered)[covered > 0].mean() < 0.03


# Datasets


def test_plumage_splits() -> None:
    data = plumage.load(train=48, test=30)
    assert data.task == "fgvc" and list(data.splits) == ["train", "test"]
    assert len(data["train"]) == 48 and len(data["test"]) == 30
    assert np.array_equal(np.bincount(data["train"].labels), np.full(24, 2))
    assert not {r.source for r in data["train"].records} & {r.source for r in data["test"].records}
    record = data["test"].records[5]
    drawing = Plumage().draw(int(record.source.split("/")[1]))
    assert np.array_equal(data["test"].read(record), drawing.image) and record.label == drawing.label
    masks = Plumage().masks(record)
    assert masks.keys() == SPECIES[record.label].marks.keys()
    assert all(np.array_equal(masks[part], drawing.masks[part]) for part in masks)


def test_promenade_splits() -> None:
    data = promenade.load(train=8, test=6, strangers=5)
    train, query, gallery = data["train"], data["query"], data["gallery"]
    assert data.task == "reid" and (len(train), len(query), len(gallery)) == (8 * 16, 6 * 4, 6 * 12 + 5)
    assert not set(train.labels) & (set(query.labels) | set(gallery.labels))
    assert set(gallery.labels) - set(query.labels) == {0} and (gallery.labels == 0).sum() == 5
    sources = [record.source for split in (train, query, gallery) for record in split.records]
    assert len(set(sources)) == len(sources)
    pairs = list(zip(query.labels, query.cameras, strict=True))
    assert len(set(pairs)) == len(pairs)
    for label, camera in pairs:
        assert ((gallery.labels == label) & (gallery.cameras != camera)).sum() == 3 * (SHOTS - 1)
    for split in (train, query, gallery):
        for record in split.records[::9]:
            drawing = Promenade().draw(int(record.source.split("/")[1]))
            assert (drawing.label, drawing.camera) == (record.label, record.camera)
            assert np.array_equal(split.read(record), drawing.image)


def test_options_reach_the_world() -> None:
    data = promenade.load(seed=4, size=(96, 48), train=1, test=1)
    record = data["train"].records[0]
    assert np.array_equal(data["train"].read(record), Promenade(4, (96, 48)).draw(0).image)
    assert not np.array_equal(Promenade(4).draw(0).image, Promenade(5).draw(0).image)


def test_index_of_counts_all_images() -> None:
    found = [index_of(p, c, s) for p in (1, 2) for c in range(len(CAMERAS)) for s in range(SHOTS)]
    assert found == list(range(2 * len(CAMERAS) * SHOTS))
    assert Promenade().draw(index_of(STRANGERS, 2, 1)).label == 0
    assert Promenade().draw(index_of(9, 2, 1)).camera == 2


@each_world
def test_bad_input_is_refused(world: World) -> None:
    make = type(world)
    for size in ((31, 64), (64, 0)):
        with pytest.raises(ValueError, match="size must be"):
            make(0, size)
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        make(-1)
    with pytest.raises(ValueError, match="index must be at least 0, got -3"):
        world.draw(-3)
    with pytest.raises(ValueError, match="label must be"):
        world.draw(3, -1)
    with pytest.raises(ValueError, match="label must be a species, 0 to 23, got 24"):
        Plumage().draw(3, 24)
    for load in (plumage.load, promenade.load):
        with pytest.raises(ValueError, match="train must be at least 1, got 0"):
            load(train=0)
        with pytest.raises(ValueError, match=r"train must be .* where the test"):
            load(train=2_000_000)


def test_an_unknown_option_is_named():
    with pytest.raises(ValueError, match="unknown option of plumage 'sise': did you mean 'size'"):
        load_dataset("plumage", sise=(64, 64))
