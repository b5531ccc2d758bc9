"""Plumage: drawn birds, a fine-grained toy world whose discriminative parts are known.

Six families differ in colour and build. The four species of a family differ in three small marks only (a crown, a wing
bar, a tail tip, ...): each mark is there or not, no mark alone tells the species, any two do. Pose, background, light
and the leaves in front depend on the image's number alone.

    world = Plumage(seed=0, size=(64, 64))
    drawing = world.draw(17)            # image, masks of the three marks, figure, label
    twin = world.draw(17, label=18)     # the same scene with another species

An image is a function of (seed, index): the same on every platform, in any order, in any process (see `drawing`).
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from .drawing import (
    Brush,
    Canvas,
    Chance,
    Colour,
    Drawing,
    Ellipse,
    Frame,
    Leaf,
    Stroke,
    Union,
    World,
    check_least,
    palette,
    rgb,
    shade,
)
from .records import Dataset, Record, Split

CODES = ((0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 0))  # which of the three marks each species of a family has
TEST = 1_000_000  # test images are numbered from here on, training images from 0

INK, SNOW, GOLD, RUST, ROSE = palette("2b2a33 fbf6ea f2c12e c9562b d86a8a")
BERRIES = (INK, SNOW, GOLD, RUST, ROSE)  # in the colours of the marks, so that colour alone does not give them away
LEAVES = palette("4f8f4a 6fa85a 8dbb63 3f7a55 a4b95a 5e9c7c")
SKIES = tuple(map(palette, ("bfe0f0 eaf3ea", "9fcbe8 dfeef5", "f3d9c4 fbf0dd", "c9d6df eef0ee", "a9d3c5 e9f2dc")))
BARK = rgb("7a5c46")


class Family(NamedTuple):
    """What the species of a family share. The bird faces right; its body's centre is the origin, its length about 1."""

    name: str
    colours: tuple[Colour, ...]  # back, belly, wing, beak
    body: tuple[float, float]  # radii
    head: tuple[float, float, float]  # centre, radius
    tail: tuple[float, float, float, float]  # tip, radius at the root, radius at the tip
    beak: tuple[float, float]  # length, thickness
    legs: float  # length
    crest: float  # length
    marks: dict[str, Colour]


FAMILIES = (
    Family("finch", palette("a8573a ecc9a4 7d4632 5b5563"), body=(0.33, 0.25), head=(0.25, -0.25, 0.19),
           tail=(-0.60, 0.16, 0.085, 0.065), beak=(0.15, 0.085), legs=0.13, crest=0.0,
           marks={"crown": SNOW, "wing bar": SNOW, "tail tip": GOLD}),
    Family("tit", palette("5f86ad f3dc7a 46698f 2b2a33"), body=(0.30, 0.25), head=(0.22, -0.25, 0.215),
           tail=(-0.56, 0.13, 0.07, 0.055), beak=(0.09, 0.05), legs=0.13, crest=0.0,
           marks={"eye stripe": INK, "throat": INK, "wing bar": SNOW}),
    Family("wagtail", palette("8d929c f1eee6 6a6f7b 2b2a33"), body=(0.31, 0.20), head=(0.26, -0.21, 0.155),
           tail=(-0.80, 0.14, 0.06, 0.05), beak=(0.13, 0.035), legs=0.20, crest=0.0,
           marks={"crown": INK, "breast": GOLD, "tail tip": SNOW}),
    Family("kingfisher", palette("1f7f8c e58a45 145d6b 2b2a33"), body=(0.28, 0.23), head=(0.24, -0.27, 0.20),
           tail=(-0.50, 0.18, 0.075, 0.06), beak=(0.34, 0.06), legs=0.09, crest=0.0,
           marks={"eye stripe": SNOW, "throat": SNOW, "tail tip": SNOW}),
    Family("waxwing", palette("b89a84 e3d2c0 8b6f60 3a353b"), body=(0.32, 0.23), head=(0.25, -0.24, 0.175),
           tail=(-0.58, 0.16, 0.075, 0.06), beak=(0.10, 0.055), legs=0.13, crest=0.24,
           marks={"throat": INK, "wing bar": GOLD, "breast": RUST}),
    Family("parakeet", palette("5fa04b c3d977 3f7a3c d5533f"), body=(0.31, 0.215), head=(0.25, -0.26, 0.185),
           tail=(-0.84, 0.30, 0.075, 0.012), beak=(0.12, 0.095), legs=0.10, crest=0.0,
           marks={"crown": GOLD, "eye stripe": INK, "breast": ROSE}),
)  # fmt: skip


class Species(NamedTuple):
    """A class: its family and its marks, None for those that it lacks."""

    name: str
    family: Family
    marks: dict[str, Colour | None]


def _species(family: Family, code: tuple[int, int, int]) -> Species:
    marks = {site: colour if bit else None for bit, (site, colour) in zip(code, family.marks.items(), strict=True)}
    present = [site for site, colour in marks.items() if colour]
    return Species(f"{family.name}, {' and '.join(present) or 'plain'}", family, marks)


SPECIES = tuple(_species(family, code) for family in FAMILIES for code in CODES)


@dataclass(frozen=True)
class Plumage(World):
    """The birds of one seed, at one size.

    Args:
        seed: from 0; another seed shows the same species in other scenes.
        size: height and width in pixels, each at least 32; the scene is square and is stretched to it.

    Raises:
        ValueError: the seed is negative or the size too small.
    """

    seed: int = 0
    size: tuple[int, int] = (64, 64)

    def draw(self, index: int, label: int | None = None, *, masks: bool = True) -> Drawing:
        """Draw image number `index`.

        Args:
            index: from 0; its species is `SPECIES[index % len(SPECIES)]`.
            label: draw this species in the scene of `index` instead.
            masks: False leaves them out, which is faster.

        Raises:
            ValueError: the index is negative, or the label is no species.
        """
        check_least("index", index, 0)
        label = index % len(SPECIES) if label is None else label
        if not 0 <= label < len(SPECIES):
            raise ValueError(f"label must be a species, 0 to {len(SPECIES) - 1}, got {label}")
        canvas = Canvas(self.size, parts=tuple(SPECIES[label].marks) if masks else None)
        chance = Chance(self.seed, index)
        _paint_background(canvas, chance)
        _paint_bird(canvas, chance, label)
        for _ in range(int(chance.uniform(0, 3))):
            _paint_leaf(canvas, chance)
        gain, warmth = chance.uniform(0.7, 1.0), chance.uniform(-0.07, 0.07)
        canvas.light((gain * (1 + warmth), gain, gain * (1 - warmth)), chance.uniform(-0.25, 0.25))
        return canvas.drawing(label)


def load(
    root: str | Path | None = None,
    *,
    seed: int = 0,
    size: tuple[int, int] = (64, 64),
    train: int = 4800,
    test: int = 960,
) -> Dataset:
    """Return Plumage as a dataset; its images are drawn when they are read.

    Args:
        root: not used, since nothing is read from disk.
        seed: from 0.
        size: height and width in pixels, each at least 32.
        train, test: number of images; the species take turns.

    Raises:
        ValueError: an argument is out of range.
    """
    world = Plumage(seed, size)
    check_least("train", train, 1)
    check_least("test", test, 1)
    if train > TEST:
        raise ValueError(f"train must be at most {TEST}, where the test images start, got {train}")

    def split(first: int, count: int) -> Split:
        records = (Record(f"plumage/{i}", i % len(SPECIES)) for i in range(first, first + count))
        return Split(tuple(records), world.read, threads=1)

    return Dataset("plumage", "fgvc", {"train": split(0, train), "test": split(TEST, test)})


def _paint_background(canvas: Canvas, chance: Chance) -> None:
    """Paint the sky, bushes out of focus, leaves and berries."""
    canvas.fill(*chance.choice(SKIES))
    for _ in range(3):
        radius = chance.uniform(0.12, 0.3)
        bush = Ellipse(chance.uniform(), chance.uniform(0.1, 1.0), radius, radius)
        canvas.paint(bush, chance.choice(LEAVES), soft=0.12, opacity=chance.uniform(0.2, 0.5))
    for _ in range(7):
        _paint_leaf(canvas, chance)
    for _ in range(3):
        canvas.paint(Ellipse(chance.uniform(), chance.uniform(), 0.022, 0.022), chance.choice(BERRIES))


def _paint_leaf(canvas: Canvas, chance: Chance) -> None:
    colour = shade(chance.choice(LEAVES), chance.uniform(0.8, 1.15))
    frame = Frame(chance.uniform(), chance.uniform(), scale=chance.uniform(0.12, 0.22), tilt=chance.uniform(-1, 1))
    canvas.paint(Leaf(chance.uniform(0.35, 0.5)), colour, frame)


def _paint_bird(canvas: Canvas, chance: Chance, label: int) -> None:
    """Paint a branch, and the bird on it."""
    family = SPECIES[label].family
    left, right = family.tail[0] - family.tail[3], family.head[0] + family.head[2] + family.beak[0]
    scale = chance.uniform(0.8, 1.0) * min(0.7, 0.94 / (right - left))
    flip = chance.uniform() < 0.5
    middle = scale * (left + right) / 2
    x, y = 0.5 + chance.uniform(-0.06, 0.06) + (middle if flip else -middle), chance.uniform(0.43, 0.57)
    frame = Frame(x, y, scale=scale, tilt=chance.uniform(-0.09, 0.09), flip=flip)
    ground = frame.point(0.05, family.body[1] + family.legs)[1] + 0.02
    slope = chance.uniform(-0.08, 0.08)
    canvas.paint(Brush(-0.05, ground - slope, 1.05, ground + slope, 0.028, 0.018), BARK)
    canvas.paint_figure(_bird(label), frame)


@cache
def _bird(label: int) -> tuple[Stroke, ...]:
    """Return the strokes of a species, from back to front."""
    _, family, marks = SPECIES[label]
    back, belly, wing, beak = family.colours
    (rx, ry), (hx, hy, r), (tx, ty, t0, t1) = family.body, family.head, family.tail
    length, thickness = family.beak
    foot, eye = ry + family.legs, (hx + 0.35 * r, hy - 0.05 * r)
    tail = Brush(-0.2, 0.02, tx, ty, t0, t1)
    plumes = Brush(0.06, -0.03, -0.36, 0.10, 0.145, 0.035)
    trunk = Union(Ellipse(0, 0, rx, ry), Ellipse(hx, hy, r, r), 0.16)

    stripe = Brush(hx - 0.75 * r, hy + 0.05 * r, hx + 0.8 * r, hy - 0.02 * r, 0.17 * r, 0.17 * r)
    legs = Union(Brush(-0.02, 0.1, 0.0, foot, 0.016, 0.016), Brush(0.09, 0.1, 0.11, foot, 0.016, 0.016))
    cx, cy = hx - 0.9 * r - 0.6 * family.crest, hy - 0.8 * r - 0.7 * family.crest
    crest = Brush(hx - 0.25 * r, hy - 0.6 * r, cx, cy, 0.45 * r, 0.02)
    strokes = (
        Stroke(tail, shade(wing, 0.92)),
        Stroke(Brush(tx + 0.1, 0.9 * ty, tx - 0.1, ty, 0.1, 0.1), None, "tail tip", tail),
        Stroke(legs, shade(beak, 0.8)),
        *([Stroke(crest, back)] if family.crest else []),
        Stroke(Brush(hx + 0.8 * r, hy + 0.08 * r, hx + r + length, hy + 0.2 * r, thickness, 0.008), beak),
        Stroke(trunk, back),
        Stroke(Ellipse(0.1, 0.12, 0.30, 0.19), belly, within=trunk),
        Stroke(Ellipse(hx - 0.02, 0.05, 0.13, 0.11), None, "breast", trunk),
        Stroke(Ellipse(hx + 0.45 * r, hy + 0.85 * r, 0.62 * r, 0.5 * r), None, "throat", trunk),
        Stroke(Ellipse(hx - 0.05 * r, hy - 0.95 * r, 0.85 * r, 0.55 * r), None, "crown", trunk),
        Stroke(plumes, wing),
        Stroke(Brush(-0.15, -0.12, -0.09, 0.16, 0.036, 0.036), None, "wing bar", plumes),
        Stroke(stripe, None, "eye stripe"),
        Stroke(Ellipse(*eye, 0.045, 0.045), rgb("211f26")),
        Stroke(Ellipse(eye[0] + 0.014, eye[1] - 0.016, 0.014, 0.014), SNOW),
    )
    own = [stroke for stroke in strokes if stroke.part is None or stroke.part in marks]
    return tuple(stroke._replace(colour=marks[stroke.part]) if stroke.part else stroke for stroke in own)
