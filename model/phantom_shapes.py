"""The pencil of the phantom: soft-edged shapes, smooth noise and branching vessels, in millimetres."""

from dataclasses import dataclass
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
#: Half the width in mm over which an edge goes from outside to inside.
EDGE_MM = 1.2
#: How far `Plane.bent` moves a point at most, about.
BEND_MM = 8.0


@dataclass(frozen=True, eq=False)
class Plane:
    """The pixel centres of a slice in mm from its middle: ``x`` to the patient's left, ``y`` to the back."""

    x: Field
    y: Field
    pixel_mm: float

    @classmethod
    def make(cls, size: int, pixel_mm: float) -> Self:
        axis = ((np.arange(size) - (size - 1) / 2) * pixel_mm).astype(np.float32)
        x, y = np.meshgrid(axis, axis)
        return cls(x, y, pixel_mm)

    def bent(self, dx: Field, dy: Field) -> "Plane":
        """The same pixels with every shape on them bent by some millimetres: nothing in a body is an ellipse."""
        limit = np.float32(BEND_MM)
        return Plane(self.x + np.clip(dx, -limit, limit), self.y + np.clip(dy, -limit, limit), self.pixel_mm)


@dataclass(frozen=True)
class Tube:
    """A straight piece of a vessel, from one point to another, in mm (x, y, z), with its radius."""

    start: tuple[float, float, float]
    end: tuple[float, float, float]
    radius_mm: float


def soft(distance: Field) -> Field:
    """0 below -1, 1 above 1, a half at 0, smooth between."""
    t = np.clip(distance * 0.5 + 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def blend(under: Field, weight: Field, value: Field | float) -> Field:
    """``value`` over ``under`` where ``weight`` is 1."""
    return under + weight * (value - under)


def ellipse(
    plane: Plane, x: float, y: float, width: float, depth: float, *, angle: float = 0.0, power: float = 2.0
) -> Field:
    """A soft-edged (super)ellipse with half axes ``width`` and ``depth``, turned by ``angle`` radians."""
    width, depth = max(width, 0.1), max(depth, 0.1)
    rows, columns = (_span(plane, at, max(width, depth)) for at in (y, x))
    dx, dy = plane.x[rows, columns] - np.float32(x), plane.y[rows, columns] - np.float32(y)
    cos, sin = np.float32(np.cos(angle) / width), np.float32(np.sin(angle) / width)
    along = np.abs(dx * cos + dy * sin)
    across = np.abs(dy * cos - dx * sin) * np.float32(width / depth)
    radius = np.hypot(along, across) if power == 2.0 else (along**power + across**power) ** np.float32(1 / power)
    weight = np.zeros_like(plane.x)
    weight[rows, columns] = soft((1 - radius) * np.float32(min(width, depth) / EDGE_MM))
    return weight


def _span(plane: Plane, middle: float, reach: float) -> slice:
    """The rows, or the columns, within ``reach`` of ``middle``, with room for the edge and the bending."""
    size = plane.x.shape[0]
    low, high = ((middle + sign * (reach + EDGE_MM + BEND_MM)) / plane.pixel_mm + size / 2 for sign in (-1, 1))
    return slice(max(0, int(low) - 1), max(0, int(high) + 2))


def smooth_noise(rng: np.random.Generator, slices: int, size: int, *, cells: int) -> Field:
    """Noise ``[slices, size, size]`` with about ``cells`` bumps along a side, smooth between slices, near -1..1."""
    layers = max(2, cells // 2)
    grid = rng.normal(0.0, 0.75, (layers, cells, cells))
    place = np.linspace(0, layers - 1, slices)
    below = np.minimum(place.astype(int), layers - 2)
    part = (place - below)[:, None, None]
    mixed = (grid[below] * (1 - part) + grid[below + 1] * part) / np.sqrt((1 - part) ** 2 + part**2)
    return np.stack(
        [cv2.resize(layer.astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC) for layer in mixed]
    )


def bronchial_tree(rng: np.random.Generator, side: int) -> list[Tube]:
    """Vessels from the root of one lung outwards, each generation shorter and thinner; z is 0 in the middle."""
    tubes: list[Tube] = []
    for turn in np.linspace(0, 2 * np.pi, 26, endpoint=False):
        # Round the root like a fan, with more of them up and down than sideways, for lungs are tall.
        direction = np.array([side * rng.uniform(0.25, 0.95), 0.95 * np.cos(turn), 1.3 * np.sin(turn)])
        root = np.array([side * 36.0, rng.uniform(-6, 16), rng.uniform(-35, 25)])
        _grow(tubes, rng, root, direction, length=30.0, radius=rng.uniform(1.9, 2.9), generation=0)
    return tubes


def _grow(
    tubes: list[Tube],
    rng: np.random.Generator,
    start: NDArray[np.float64],
    direction: NDArray[np.float64],
    *,
    length: float,
    radius: float,
    generation: int,
) -> None:
    direction = direction / np.linalg.norm(direction)
    pieces = 3
    for piece in range(pieces):
        end = start + (direction + rng.normal(0, 0.16, 3)) * length / pieces
        tubes.append(
            Tube((start[0], start[1], start[2]), (end[0], end[1], end[2]), radius * (1 - 0.3 * piece / pieces))
        )
        start = end
    if generation < 5:
        for _ in range(2):
            turned = direction + rng.normal(0.0, 0.40, 3)
            _grow(tubes, rng, start, turned, length=length * 0.86, radius=radius * 0.72, generation=generation + 1)


def draw_tubes(plane: Plane, tubes: list[Tube], z: float, *, thickness_mm: float, narrow: float = 1.0) -> Field:
    """How much of each pixel, 0..1, vessels fill within a slice of ``thickness_mm`` at ``z``."""
    # Drawn at twice the size: OpenCV's lines have whole widths.
    canvas = np.zeros((plane.x.shape[0] * 2, plane.x.shape[1] * 2), np.uint8)
    scale, middle = 2 / plane.pixel_mm, canvas.shape[0] / 2
    for tube in tubes:
        reach = thickness_mm / 2 + tube.radius_mm
        piece = _within(tube, z - reach, z + reach)
        if piece is None:
            continue
        (x0, y0), (x1, y1) = ((round((p[0] * scale + middle) * 16), round((p[1] * scale + middle) * 16)) for p in piece)
        width = 2 * tube.radius_mm * narrow * scale
        # Thinner than a line can be drawn: fainter instead, as in a scan.
        grey = int(235 * min(1.0, 0.16 + tube.radius_mm * narrow / 1.7))
        cv2.line(canvas, (x0, y0), (x1, y1), (grey,), max(1, round(width)), cv2.LINE_AA, 4)
    small = cv2.resize(canvas, plane.x.shape[::-1], interpolation=cv2.INTER_AREA)
    return small.astype(np.float32) / 255


def _within(tube: Tube, low: float, high: float) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """(x, y) of the ends of what lies between two heights."""
    (x0, y0, z0), (x1, y1, z1) = tube.start, tube.end
    if max(z0, z1) < low or min(z0, z1) > high:
        return None
    rise = z1 - z0
    if abs(rise) < 1e-6:
        return (x0, y0), (x1, y1)
    first, last = sorted(min(1.0, max(0.0, (limit - z0) / rise)) for limit in (low, high))
    return (
        (x0 + (x1 - x0) * first, y0 + (y1 - y0) * first),
        (x0 + (x1 - x0) * last, y0 + (y1 - y0) * last),
    )
