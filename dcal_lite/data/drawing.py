"""Anti-aliased shapes on a canvas, by NumPy alone: the pencil of the two toy worlds.

A `Shape` is a signed distance function (negative inside) with a bounding box. A `Frame` places it, a `Canvas` paints it
and remembers which part of the figure each pixel shows. Lengths are relative to the height of the picture, so the same
scene appears at every size.

Two choices make the pixels the same on every platform. Random numbers come from the raw stream of PCG64, which NumPy
keeps stable. Arithmetic is + - * / and the square root, one NumPy call each, which IEEE 754 rounds in one way only: no
sine, no power, no sum over pixels. For that reason a rotation is given by the tangent of half its angle.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from .records import Record

T = TypeVar("T")
Colour = tuple[float, float, float]  # red, green, blue in [0, 1]
Box = tuple[float, float, float, float]  # left, top, right, bottom; y points down
Window = tuple[slice, slice]  # rows, columns


@dataclass(frozen=True, eq=False)
class Drawing:
    """A picture and the truth about it.

    Args:
        image: the picture.
        masks: for each discriminative part, the pixels that show some of it. What is hidden is left out; a part that
            the figure lacks (no crown) keeps the mask of its place. Empty if masks were not asked for.
        figure: the pixels that show some of the bird or person.
        label: species, or identity (0: a stranger).
        camera: 0 where there is only one.
    """

    image: UInt8[np.ndarray, "H W 3"]
    masks: dict[str, Bool[np.ndarray, "H W"]]
    figure: Bool[np.ndarray, "H W"]
    label: int
    camera: int = 0


@dataclass(frozen=True)
class World(ABC):
    """A world of drawings: image number `index` is a function of (seed, index), at every size.

    Args:
        seed: from 0.
        size: height and width of the pictures in pixels, each at least 32.

    Raises:
        ValueError: the seed is negative or the size too small.
    """

    seed: int
    size: tuple[int, int]

    def __post_init__(self) -> None:
        check_least("seed", self.seed, 0)
        check_size(self.size)

    @abstractmethod
    def draw(self, index: int, label: int | None = None, *, masks: bool = True) -> Drawing:
        """Draw image number `index`, or the same scene with another species or person."""

    def read(self, record: Record) -> UInt8[np.ndarray, "H W 3"]:
        """Draw the image of a record."""
        return self.draw(_index(record), masks=False).image

    def masks(self, record: Record) -> dict[str, Bool[np.ndarray, "H W"]]:
        """Return the masks of a record's discriminative parts, by name."""
        return self.draw(_index(record)).masks


class Chance:
    """Random numbers that depend on the key alone.

    Args:
        key: integers from 0.
    """

    def __init__(self, *key: int) -> None:
        self._next = self._units(key).__next__

    @staticmethod
    def _units(key: tuple[int, ...]) -> Iterator[float]:
        """Yield numbers in [0, 1) for ever, made in blocks because that is faster."""
        bits = np.random.PCG64(np.random.SeedSequence(key))
        while True:
            yield from ((bits.random_raw(64) >> np.uint64(11)) * 2.0**-53).tolist()

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Draw from [low, high)."""
        return low + (high - low) * self._next()

    def choice(self, options: Sequence[T]) -> T:
        """Draw one of the options."""
        return options[int(self.uniform(0, len(options)))]

    def sample(self, options: Sequence[T], count: int) -> list[T]:
        """Draw `count` different options, in random order."""
        left = list(options)
        return [left.pop(int(self.uniform(0, len(left)))) for _ in range(count)]


class Shape(ABC):
    """A region of the plane."""

    @property
    @abstractmethod
    def box(self) -> Box:
        """Outside of this box the region is empty."""

    @abstractmethod
    def distance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the signed distance at points (x, y), which broadcast, as a new array; negative inside."""


@dataclass(frozen=True)
class Ellipse(Shape):
    """An upright ellipse: centre and radii."""

    x: float
    y: float
    rx: float
    ry: float

    @property
    def box(self) -> Box:
        return self.x - self.rx, self.y - self.ry, self.x + self.rx, self.y + self.ry

    def distance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        u, v = (x - self.x) * (1 / self.rx), (y - self.y) * (1 / self.ry)
        level = np.sqrt(u * u + v * v)
        if self.rx == self.ry:
            return (level - 1.0) * self.rx
        u, v = u * (1 / self.rx), v * (1 / self.ry)  # to first order, the distance is the level over its gradient
        return level * (level - 1.0) / np.maximum(np.sqrt(u * u + v * v), 1e-6)


@dataclass(frozen=True)
class Brush(Shape):
    """The trace of a round brush from (x0, y0) to (x1, y1), its radius going from r0 to r1."""

    x0: float
    y0: float
    x1: float
    y1: float
    r0: float
    r1: float

    @property
    def box(self) -> Box:
        (left, right), (top, bottom) = sorted((self.x0, self.x1)), sorted((self.y0, self.y1))
        r = max(self.r0, self.r1)
        return left - r, top - r, right + r, bottom + r

    def distance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        dx, dy, dr = self.x1 - self.x0, self.y1 - self.y0, self.r1 - self.r0
        length2 = dx * dx + dy * dy
        u, v = x - self.x0, y - self.y0
        t = np.minimum(np.maximum(u * (dx / length2) + v * (dy / length2), 0.0), 1.0)
        u, v = u - t * dx, v - t * dy
        reach = np.sqrt(u * u + v * v)
        return reach - (t * dr + self.r0) if dr else reach - self.r0


@dataclass(frozen=True)
class Leaf(Shape):
    """A horizontal leaf at the origin, length 1, pointed at both ends: where two circles overlap."""

    width: float

    @property
    def box(self) -> Box:
        return -0.5, -self.width / 2, 0.5, self.width / 2

    def distance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        radius = (1 + self.width * self.width) / (4 * self.width)
        v = np.abs(y) + (radius - self.width / 2)
        return np.sqrt(x * x + v * v) - radius


@dataclass(frozen=True)
class Slab(Shape):
    """An upright trapezoid: axis, extent in y, half its width at the top and at the bottom, radius of its corners."""

    x: float
    top: float
    bottom: float
    w0: float
    w1: float
    corner: float = 0.0

    @property
    def box(self) -> Box:
        w = max(self.w0, self.w1)
        return self.x - w, self.top, self.x + w, self.bottom

    def distance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        middle, height = (self.top + self.bottom) / 2, self.bottom - self.top
        u = np.abs(x - self.x) - (y - self.top) * ((self.w1 - self.w0) / height) - (self.w0 - self.corner)
        v = np.abs(y - middle) - (height / 2 - self.corner)
        inside = np.minimum(np.maximum(u, v), 0.0)
        u, v = np.maximum(u, 0.0), np.maximum(v, 0.0)
        return np.sqrt(u * u + v * v) + inside - self.corner


@dataclass(frozen=True)
class Union(Shape):
    """Two shapes in one; corners between them are filled with a radius of about `fillet`."""

    one: Shape
    two: Shape
    fillet: float = 0.0

    @property
    def box(self) -> Box:
        (a, b, c, d), (e, f, g, h) = self.one.box, self.two.box
        return min(a, e), min(b, f), max(c, g), max(d, h)

    def distance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        one, two = self.one.distance(x, y), self.two.distance(x, y)
        nearest = np.minimum(one, two)
        if self.fillet == 0:
            return nearest
        blend = np.maximum(self.fillet - np.abs(one - two), 0.0)
        return nearest - blend * blend * (0.25 / self.fillet)


class Frame:
    """Where a figure stands: its point p goes to (x, y) + scale * rotation(p), mirrored first if `flip`.

    Args:
        x, y: where the figure's origin goes.
        scale: picture heights per unit of the figure.
        tilt: tangent of half the angle, clockwise in the picture.
        flip: swap left and right.
    """

    def __init__(self, x: float, y: float, *, scale: float, tilt: float = 0.0, flip: bool = False) -> None:
        cos, sin = (1 - tilt * tilt) / (1 + tilt * tilt), 2 * tilt / (1 + tilt * tilt)
        side = -1.0 if flip else 1.0
        self.x, self.y, self.scale = x, y, scale
        self._forward = (side * cos * scale, -sin * scale, side * sin * scale, cos * scale)
        self._backward = (side * cos / scale, side * sin / scale, -sin / scale, cos / scale)

    def point(self, x: float, y: float) -> tuple[float, float]:
        """Take a point of the figure to the picture."""
        a, b, c, d = self._forward
        return self.x + a * x + b * y, self.y + c * x + d * y

    def bound(self, box: Box) -> Box:
        """Return a box of the picture around a box of the figure."""
        left, top, right, bottom = box
        a, b, c, d = self._forward
        x, y = self.point((left + right) / 2, (top + bottom) / 2)
        w, h = (right - left) / 2, (bottom - top) / 2
        w, h = abs(a) * w + abs(b) * h, abs(c) * w + abs(d) * h
        return x - w, y - h, x + w, y + h

    def local(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Take points of the picture, a row x and a column y, to the figure."""
        a, b, c, d = self._backward
        u, v = x - self.x, y - self.y
        return u * a + v * b, u * c + v * d


class Stroke(NamedTuple):
    """One act of painting a figure.

    shape: in the figure's coordinates. colour: None if the figure lacks the part, then only its place is noted. part:
    the discriminative part it belongs to, if any. within: the shape of an earlier stroke that cuts this one off.
    """

    shape: Shape
    colour: Colour | None
    part: str | None = None
    within: Shape | None = None


class Canvas:
    """A picture of height 1 and width `aspect`, stretched to `size` pixels.

    Args:
        size: height and width in pixels.
        aspect: width of the scene; its height is 1.
        parts: names of the parts whose masks are wanted; None: no truth is kept, which is faster.
    """

    def __init__(self, size: tuple[int, int], *, aspect: float = 1.0, parts: Sequence[str] | None = None) -> None:
        height, width = size
        self.steps = (aspect / width, 1 / height)  # width and height of a pixel
        self.x = ((np.arange(width, dtype=np.float32) + 0.5) * self.steps[0])[None, :]
        self.y = ((np.arange(height, dtype=np.float32) + 0.5) * self.steps[1])[:, None]
        self._aspect = aspect
        self._image = np.zeros((3, height, width), np.float32)
        self._bits = None if parts is None else {part: 2 << bit for bit, part in enumerate(parts)}
        self._shows = np.zeros((height, width), np.uint8)  # bit 0: some of the figure; bit p: some of part p

    def fill(self, top: Colour, bottom: Colour) -> None:
        """Cover everything with a vertical blend of two colours."""
        for channel, first, last in zip(self._image, top, bottom, strict=True):
            channel[:] = self.y * (last - first) + first

    def paint(
        self, shape: Shape, colour: Colour, frame: Frame | None = None, *, soft: float = 0.0, opacity: float = 1.0
    ) -> None:
        """Paint a piece of scenery; it hides what is below.

        Args:
            shape: in the coordinates of `frame`; without one, in the picture's.
            colour: of the whole shape.
            soft: width of the edge, where that is more than a pixel.
            opacity: in (0, 1].
        """
        window = self._window(frame.bound(shape.box) if frame else shape.box, soft)
        if window:
            x, y = self.x[:, window[1]], self.y[window[0]]
            distance = shape.distance(*frame.local(x, y)) * frame.scale if frame else shape.distance(x, y)
            cover = _cover(distance, max(*self.steps, soft))
            self._blend(window, cover if opacity == 1 else cover * opacity, colour)

    def paint_figure(self, strokes: Sequence[Stroke], frame: Frame) -> None:
        """Paint the strokes of a figure, in this order."""
        x, y = frame.local(self.x, self.y)
        edge = max(self.steps) / frame.scale
        outlines = {stroke.within: np.zeros(x.shape, np.float32) for stroke in strokes if stroke.within}
        for shape, colour, part, within in strokes:
            window = self._window(frame.bound(shape.box))
            if window:
                cover = _cover(shape.distance(x[window], y[window]), edge)
                if shape in outlines:
                    outlines[shape][window] = cover
                if within:
                    cover *= outlines[within][window]
                self._blend(window, cover, colour, part, figure=True)

    def light(self, gain: Colour, slope: float = 0.0) -> None:
        """Multiply each channel by its gain, and all by a light that grows by `slope` from left to right."""
        ramp = (self.x - self._aspect / 2) * (slope / self._aspect) + 1
        for channel, value in zip(self._image, gain, strict=True):
            channel *= ramp * value

    def drawing(self, label: int, camera: int = 0) -> Drawing:
        """Return the picture with its truth."""
        levels = np.minimum(self._image, 1.0) * 255 + 0.5
        image = np.ascontiguousarray(levels.astype(np.uint8).transpose(1, 2, 0))
        masks = {part: (self._shows & bit) != 0 for part, bit in (self._bits or {}).items()}
        return Drawing(image, masks, (self._shows & 1) != 0, label, camera)

    def _window(self, box: Box, soft: float = 0.0) -> Window | None:
        """Return the rows and columns that a box can touch; None if there are none."""
        (left, top, right, bottom), (dx, dy), (height, width) = box, self.steps, self._shows.shape
        rows = max(int((top - soft) / dy - 1), 0), min(int((bottom + soft) / dy + 2), height)
        columns = max(int((left - soft) / dx - 1), 0), min(int((right + soft) / dx + 2), width)
        return (slice(*rows), slice(*columns)) if rows[0] < rows[1] and columns[0] < columns[1] else None

    def _blend(
        self, window: Window, cover: np.ndarray, colour: Colour | None, part: str | None = None, *, figure: bool = False
    ) -> None:
        """Blend a colour in, and note what the pixels show now."""
        if self._bits is not None:
            bits = (figure and colour is not None) | (self._bits[part] if part else 0)
            shows = self._shows[window]
            if colour is not None:
                shows *= cover < 1
            if bits:
                shows |= (cover > 0) * np.uint8(bits)
        if colour is not None:
            below = self._image[:, *window]
            below *= 1 - cover  # so that a pixel which is covered fully keeps nothing of what was below
            below += cover * np.array(colour, np.float32)[:, None, None]


def _cover(distance: Float32[np.ndarray, "H W"], edge: float) -> Float32[np.ndarray, "H W"]:
    """Turn signed distances, in place, into the share of each pixel that is covered; `edge` is a pixel's width."""
    distance *= -1 / edge
    distance += 0.5
    np.maximum(distance, 0.0, out=distance)
    return np.minimum(distance, 1.0, out=distance)


def rgb(code: str) -> Colour:
    """Read a colour written as six hexadecimal digits."""
    return int(code[:2], 16) / 255, int(code[2:4], 16) / 255, int(code[4:], 16) / 255


def palette(codes: str) -> tuple[Colour, ...]:
    """Read several colours, separated by spaces."""
    return tuple(rgb(code) for code in codes.split())


def shade(colour: Colour, factor: float) -> Colour:
    """Multiply a colour."""
    red, green, blue = colour
    return red * factor, green * factor, blue * factor


def lightness(colour: Colour) -> float:
    """Return how light a colour looks, in [0, 1]: what is left of it without colour vision."""
    red, green, blue = colour
    return 0.299 * red + 0.587 * green + 0.114 * blue


def check_size(size: tuple[int, int]) -> None:
    """Raise ValueError unless size is (height, width), both at least 32."""
    if min(size) < 32:
        raise ValueError(f"size must be (height, width), each at least 32 pixels, got {size}: draw larger, then shrink")


def check_least(name: str, value: int, least: int) -> None:
    """Raise ValueError unless a number is at least `least`."""
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def _index(record: Record) -> int:
    return int(record.source.rpartition("/")[2])
