"""Promenade: drawn people seen by four cameras, a re-identification toy world whose discriminative parts are known.

People come in pairs who are dressed alike. The two of a pair differ in three small parts only (cap, scarf, bag, badge,
belt or shoes): one has what the other lacks, or has it in another colour. Cameras differ in background, light, colour
cast and distance; boxes are misaligned; poles, bushes and fences hide parts of people; strangers pass by.

    world = Promenade(seed=0, size=(64, 32))
    drawing = world.draw(17)            # image, masks of the three parts, figure, label, camera
    twin = world.draw(17, label=2)      # the same scene with another person

An image is a function of (seed, index): the same on every platform, in any order, in any process (see `drawing`).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
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
    Shape,
    Slab,
    Stroke,
    Union,
    World,
    check_least,
    lightness,
    palette,
    rgb,
    shade,
)
from .records import Dataset, Record, Split

SHOTS = 4  # images of one person by one camera
TEST = 100_001  # test people are numbered from here on, training people from 1
STRANGERS = 1_000_001  # whoever is numbered from here on is a distractor: label 0, as "0000" in Market-1501
_OUTFIT, _SCENE = 0, 1  # what a random number is for
Forms = dict[str, Colour | None]  # the parts that tell a person from the look-alike; None: absent

SKINS = palette("f3cfb3 e0ac85 c68a62 9a6542 6d4630")
HAIRS = palette("2a2320 5b3a26 8a5a33 c99b57 9c9793 a5482f")
TOPS = palette("b8433f d98a3d e2c65b 5f9a62 3f8f94 4a76b0 2f4672 7d5b94 c97a95 8a8f98 e8e1d3 3a3b42")
BOTTOMS = palette("2d3a57 4c5566 33343b 8b7a5e 6b4a3d 57744f 8c8f99 7a3f4a")
ACCENTS = palette("fbf6ea 26262e f2c12e d5533f 2f86c4 2f9e77 d86a9a e58a2f")
EYES, SHOES = palette("211f26 2b2930")


class Outfit(NamedTuple):
    """What a pair shares, and the forms, one for each of the two, of the parts in which they differ; None: absent."""

    skin: Colour
    hair: Colour
    top: Colour
    bottom: Colour
    legwear: str
    long_hair: bool
    long_sleeves: bool
    build: float
    parts: dict[str, tuple[Colour | None, Colour | None]]


class Camera(NamedTuple):
    """A place and its light."""

    place: str
    wall: Colour
    floor: Colour
    horizon: float
    gain: Colour
    slope: float
    scale: float


CAMERAS = (
    Camera("windows", rgb("d9c7ad"), rgb("9b958c"), 0.62, (1.0, 0.92, 0.80), -0.2, 0.86),
    Camera("columns", rgb("a9c3c9"), rgb("b9ab94"), 0.58, (1.0, 0.98, 0.92), 0.15, 0.76),
    Camera("park", rgb("b7c2a4"), rgb("8aa07a"), 0.52, (0.74, 0.80, 0.86), 0.25, 0.90),
    Camera("shops", rgb("c9adab"), rgb("a7a5ad"), 0.66, (1.02, 0.93, 0.90), -0.1, 0.82),
)


@dataclass(frozen=True)
class Promenade(World):
    """The people of one seed, at one size.

    Args:
        seed: from 0; another seed dresses other people.
        size: height and width in pixels, each at least 32; the scene is twice as high as wide and is stretched to it.

    Raises:
        ValueError: the seed is negative or the size too small.
    """

    seed: int = 0
    size: tuple[int, int] = (64, 32)

    def draw(self, index: int, label: int | None = None, *, masks: bool = True) -> Drawing:
        """Draw image number `index`.

        Args:
            index: from 0; `index_of` numbers the images.
            label: number of the person to draw in the scene of `index` instead, from 1.
            masks: False leaves them out, which is faster.

        Raises:
            ValueError: the index is negative, or the label less than 1.
        """
        check_least("index", index, 0)
        own, camera = divmod(index // SHOTS, len(CAMERAS))
        person = own + 1 if label is None else label
        check_least("label", person, 1)
        outfit, forms = _dress(self.seed, person)
        canvas = Canvas(self.size, aspect=0.5, parts=tuple(forms) if masks else None)
        chance = Chance(self.seed, _SCENE, index)
        view = CAMERAS[camera]
        _paint_place(canvas, chance, view)
        _paint_person(canvas, chance, view.scale, outfit, forms)
        _paint_obstacle(canvas, chance)
        gain = chance.uniform(0.85, 1.1)
        canvas.light(shade(view.gain, gain), view.slope)
        return canvas.drawing(person if person < STRANGERS else 0, camera)


def index_of(person: int, camera: int, shot: int) -> int:
    """Return the number of an image.

    Args:
        person: from 1.
        camera: from 0, below len(CAMERAS).
        shot: from 0, below SHOTS.
    """
    return ((person - 1) * len(CAMERAS) + camera) * SHOTS + shot


def load(
    root: str | Path | None = None,
    *,
    seed: int = 0,
    size: tuple[int, int] = (64, 32),
    train: int = 240,
    test: int = 80,
    strangers: int = 240,
) -> Dataset:
    """Return Promenade as a dataset; its images are drawn when they are read.

    Queries are one image of each test person by each camera; the gallery holds their other images and the strangers.

    Args:
        root: not used, since nothing is read from disk.
        seed: from 0.
        size: height and width in pixels, each at least 32.
        train, test: number of people, different ones.
        strangers: number of distractors in the gallery, one image each.

    Raises:
        ValueError: an argument is out of range.
    """
    world = Promenade(seed, size)
    for name, value, least in (("train", train, 1), ("test", test, 1), ("strangers", strangers, 0)):
        check_least(name, value, least)
    if train >= TEST:
        raise ValueError(f"train must be less than {TEST}, where the test people start, got {train}")

    def split(images: Iterable[tuple[int, int, int]]) -> Split:
        return Split(tuple(_record(*image) for image in images), world.read, threads=1)

    cameras, people = range(len(CAMERAS)), range(TEST, TEST + test)
    gallery = [(p, c, s) for p in people for c in cameras for s in range(1, SHOTS)]
    gallery += [(STRANGERS + 2 * k, k % len(CAMERAS), 0) for k in range(strangers)]  # one of each pair
    splits = {
        "train": split((p, c, s) for p in range(1, train + 1) for c in cameras for s in range(SHOTS)),
        "query": split((p, c, 0) for p in people for c in cameras),
        "gallery": split(gallery),
    }
    return Dataset("promenade", "reid", splits)


def _record(person: int, camera: int, shot: int) -> Record:
    return Record(f"promenade/{index_of(person, camera, shot)}", person if person < STRANGERS else 0, camera)


@lru_cache(maxsize=4096)
def _dress(seed: int, person: int) -> tuple[Outfit, Forms]:
    """Return what a person wears, and the parts that tell the person from the look-alike."""
    pair, member = divmod(person - 1, 2)
    outfit = _outfit(Chance(seed, _OUTFIT, pair))
    return outfit, {part: forms[member] for part, forms in outfit.parts.items()}


def _outfit(chance: Chance) -> Outfit:
    skin, hair, top, bottom = map(chance.choice, (SKINS, HAIRS, TOPS, BOTTOMS))
    grounds = {"cap": hair, "scarf": top, "badge": top, "bag": top, "belt": top, "shoes": bottom}
    parts = {}
    for part in chance.sample(tuple(grounds), 3):
        one = chance.choice(_distinct(grounds[part]))
        two = chance.choice([accent for accent in _distinct(one) if accent in _distinct(grounds[part])])
        absent = part != "shoes" and chance.uniform() < 0.7
        parts[part] = tuple(chance.sample((one, None if absent else two), 2))
    legwear = chance.choice(("trousers", "trousers", "shorts", "skirt"))
    long_hair, long_sleeves, build = chance.uniform() < 0.5, chance.uniform() < 0.6, chance.uniform(0.9, 1.12)
    return Outfit(skin, hair, top, bottom, legwear, long_hair, long_sleeves, build, parts)


def _distinct(ground: Colour) -> list[Colour]:
    """Return the accents that stand out from a colour by lightness, not by hue alone."""
    return [accent for accent in ACCENTS if abs(lightness(accent) - lightness(ground)) > 0.2]


def _paint_place(canvas: Canvas, chance: Chance, view: Camera) -> None:
    """Paint the wall, what stands along it, and the floor."""
    canvas.fill(view.wall, shade(view.wall, 0.85))
    start, horizon = chance.uniform(-0.3, 0.0), view.horizon + chance.uniform(-0.04, 0.04)
    for k in range(3):
        x = start + 0.3 * k
        if view.place == "windows":
            canvas.paint(Slab(x, 0.1, 0.38, 0.08, 0.08, 0.01), shade(view.wall, 0.62))
        elif view.place == "columns":
            canvas.paint(Slab(x, -0.1, horizon, 0.03, 0.03), shade(view.wall, 0.8))
        elif view.place == "park":
            canvas.paint(Ellipse(x, horizon - 0.1, 0.17, 0.17), rgb("5e8a57"), soft=0.05)
        else:
            canvas.paint(Slab(x, 0.28, horizon, 0.1, 0.1, 0.02), shade(view.wall, 0.72))
    canvas.paint(Slab(0.25, horizon, 1.2, 0.5, 0.5), view.floor)


def _paint_obstacle(canvas: Canvas, chance: Chance) -> None:
    """Paint a pole, a bush or a fence in front, or nothing."""
    kind, x, y = chance.uniform(), chance.uniform(0, 0.5), chance.uniform(0.75, 1.0)
    if kind < 0.15:
        canvas.paint(Slab(x, -0.1, 1.1, 0.028, 0.028), rgb("4f545c"))
    elif kind < 0.35:
        for k in (-0.07, 0.0, 0.07):
            canvas.paint(Ellipse(x + k, y + 0.08 + abs(k) / 2, 0.085, 0.085), shade(rgb("4f8a52"), 1 + k))
    elif kind < 0.5:
        for rail in (y - 0.06, y + 0.05):
            canvas.paint(Slab(0.25, rail, rail + 0.04, 0.4, 0.4), rgb("8a6a4e"))


def _paint_person(canvas: Canvas, chance: Chance, scale: float, outfit: Outfit, forms: Forms) -> None:
    """Paint a shadow and the person, at a place that shifts because boxes do."""
    scale *= chance.uniform(0.92, 1.12)
    x, feet = 0.25 + chance.uniform(-0.05, 0.05), 0.95 + chance.uniform(-0.05, 0.06)
    frame = Frame(x, feet - scale, scale=scale, tilt=chance.uniform(-0.03, 0.03), flip=chance.uniform() < 0.5)
    canvas.paint(Ellipse(x, feet - 0.005, 0.17, 0.025), (0.1, 0.1, 0.15), soft=0.03, opacity=0.35)
    canvas.paint_figure(_figure(outfit, forms, chance.uniform(0.3, 1.0), chance.uniform(-1, 1)), frame)


def _figure(outfit: Outfit, forms: Forms, stride: float, swing: float) -> list[Stroke]:
    """Return the strokes of a person who walks to the right, from back to front; height 1, soles at y = 1.

    Args:
        outfit, forms: what the person wears.
        stride: how far the feet are apart, in [0, 1].
        swing: how far the near arm is ahead, in [-1, 1].
    """
    skin, hair, top, bottom, wide = outfit.skin, outfit.hair, outfit.top, outfit.bottom, outfit.build
    head, side = Ellipse(0.012, 0.095, 0.078, 0.088), -0.115 * wide
    mane = Slab(-0.025, 0.03, 0.235, 0.085, 0.08, 0.06)
    hips = Slab(0, 0.49, 0.57, 0.106 * wide, 0.11 * wide, 0.02)
    if outfit.legwear == "skirt":
        hips = Slab(0, 0.47, 0.70, 0.1 * wide, 0.15 * wide, 0.02)
    cap = Union(Slab(-0.002, -0.015, 0.062, 0.075, 0.09, 0.03), Brush(0.02, 0.058, 0.125, 0.062, 0.012, 0.012))
    bag = Union(Slab(side, 0.40, 0.53, 0.06, 0.066, 0.02), Brush(side, 0.41, 0.05, 0.21, 0.011, 0.011))
    return [
        *_arm(outfit, -swing, 0.78),
        *([Stroke(mane, shade(hair, 0.85))] if outfit.long_hair else []),
        *_leg(outfit, forms, -stride, 0.8),
        *_leg(outfit, forms, stride, 1.0),
        Stroke(Brush(0, 0.14, 0, 0.22, 0.04, 0.04), shade(skin, 0.9)),
        Stroke(Slab(0, 0.185, 0.54, 0.118 * wide, 0.105 * wide, 0.06), top),
        Stroke(hips, bottom),
        *_part(forms, "belt", Slab(0, 0.465, 0.51, 0.107 * wide, 0.107 * wide, 0.01)),
        *_part(forms, "badge", Ellipse(0.05, 0.295, 0.045, 0.045)),
        Stroke(head, skin),
        Stroke(Ellipse(-0.005, 0.055, 0.09, 0.07), hair),
        Stroke(Ellipse(0.05, 0.11, 0.045, 0.05), skin, within=head),
        *_part(forms, "scarf", Slab(0.005, 0.175, 0.225, 0.075, 0.085, 0.022)),
        *_part(forms, "cap", cap),
        Stroke(Ellipse(0.06, 0.10, 0.01, 0.012), EYES),
        *_arm(outfit, swing, 0.92),
        *_part(forms, "bag", bag),
    ]


def _leg(outfit: Outfit, forms: Forms, step: float, tone: float) -> list[Stroke]:
    hip, foot, wide = 0.045 * step * outfit.build, 0.115 * step, outfit.build
    shoe = Brush(foot - 0.005, 0.965, foot + 0.06, 0.972, 0.036, 0.028)
    colour = outfit.bottom if outfit.legwear == "trousers" else outfit.skin
    strokes = [Stroke(Brush(hip, 0.52, foot, 0.93, 0.062 * wide, 0.04), shade(colour, tone))]
    if outfit.legwear == "shorts":
        strokes.append(Stroke(Brush(hip, 0.52, 0.07 * step, 0.68, 0.07 * wide, 0.062), shade(outfit.bottom, tone)))
    return strokes + (_part(forms, "shoes", shoe) or [Stroke(shoe, SHOES)])


def _arm(outfit: Outfit, step: float, tone: float) -> list[Stroke]:
    cuff = (0.1 * step, 0.50) if outfit.long_sleeves else (0.045 * step, 0.35)
    return [
        Stroke(Brush(0.02 * step, 0.25, 0.1 * step, 0.53, 0.042, 0.032), shade(outfit.skin, tone)),
        Stroke(Brush(0.02 * step, 0.25, *cuff, 0.05, 0.042), shade(outfit.top, tone)),
    ]


def _part(forms: Forms, name: str, shape: Shape) -> list[Stroke]:
    return [Stroke(shape, forms[name], name)] if name in forms else []
