"""A synthetic chest CT with known lesions, for where no real one is at hand. It is called synthetic everywhere.

Shapes are drawn in millimetres with soft edges: x towards the patient's left, y towards the back, height 0 (above the
liver) to 1 (the tips of the lungs). Nothing here comes from a patient.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from .errors import UsageError
from .phantom_shapes import Field, Plane, Tube, blend, bronchial_tree, draw_tubes, ellipse, smooth_noise, soft
from .study import Study

FIELD_OF_VIEW_MM = 356.0
LUNG_HEIGHT_MM = 240.0
AIR, FAT, MUSCLE, BLOOD, FLUID, MARROW, CORTEX = -1000.0, -95.0, 50.0, 42.0, 8.0, 190.0, 620.0
LUNG = -862.0
NAME = "synthetic_phantom"
NOTE = "SYNTHETIC PHANTOM drawn by this program, not a patient"
GROUND_GLASS, CONSOLIDATION, EFFUSION = 1, 2, 3

#: x, y in mm, height, and the radius in each; negative x is the right lung.
Ellipsoid = tuple[float, float, float, float, float, float]
GROUND_GLASS_AT: tuple[Ellipsoid, ...] = (
    (-108.0, 18.0, 0.40, 26.0, 34.0, 0.17),
    (-88.0, -38.0, 0.62, 24.0, 20.0, 0.12),
    (98.0, 22.0, 0.55, 24.0, 30.0, 0.15),
    (72.0, -46.0, 0.74, 22.0, 18.0, 0.10),
    (-70.0, 52.0, 0.24, 40.0, 24.0, 0.17),
)
CONSOLIDATION_AT: tuple[Ellipsoid, ...] = (
    (-84.0, 58.0, 0.25, 28.0, 18.0, 0.15),
    (-118.0, 20.0, 0.44, 10.0, 20.0, 0.10),
    (94.0, 50.0, 0.50, 16.0, 15.0, 0.10),
)


@dataclass(frozen=True)
class Phantom:
    """A synthetic study and what was planted in it.

    Attributes:
        study: the image.
        lesion_types: uint8 ``[Z, H, W]``: 0 background, 1 ground glass, 2 consolidation, 3 pleural effusion.
        lung_mask: uint8 ``[Z, H, W]``: 0 / 1, diseased lung included, effusion not.
    """

    study: Study
    lesion_types: NDArray[np.uint8]
    lung_mask: NDArray[np.uint8]

    @property
    def lesion_mask(self) -> NDArray[np.uint8]:
        """uint8 ``[Z, H, W]``: 0 / 1, any lesion."""
        return (self.lesion_types > 0).astype(np.uint8)


def make_phantom(*, size: int = 384, slices: int = 24, seed: int = 0) -> Study:
    """The image of ``make_labelled_phantom``."""
    return make_labelled_phantom(size=size, slices=slices, seed=seed).study


def make_labelled_phantom(*, size: int = 384, slices: int = 24, seed: int = 0) -> Phantom:
    """A synthetic chest with ground glass, consolidation and a left pleural effusion; equal for equal arguments.

    Args:
        size: pixels along a side, 64 to 1024; the field of view stays 356 mm.
        slices: 1 to 512, evenly over 240 mm of lung.
        seed: of the noise, the vessels and the outline of the lesions.

    Raises:
        UsageError: a size or number of slices out of range.
    """
    if not (64 <= size <= 1024 and 1 <= slices <= 512):
        raise UsageError(f"a phantom has 64 to 1024 pixels a side and 1 to 512 slices, got {size} and {slices}")
    drawn = _draw(size, slices, seed)
    between, pixel = LUNG_HEIGHT_MM / slices, FIELD_OF_VIEW_MM / size
    # RAS: columns run to the patient's left, so -x; rows to the back, so -y.
    half = FIELD_OF_VIEW_MM / 2 - pixel / 2
    affine = np.diag([-pixel, -pixel, between, 1.0])
    affine[:3, 3] = (half, half, 0.0)
    study = Study(
        NAME,
        np.stack([image for image, _, _ in drawn]),
        "phantom",
        spacing_mm=(between, pixel, pixel),
        affine=affine,
        notes=(NOTE,),
    )
    return Phantom(study, np.stack([types for _, types, _ in drawn]), np.stack([lung for _, _, lung in drawn]))


#: HU, lesion types and lung mask of one slice.
Slice = tuple[NDArray[np.int16], NDArray[np.uint8], NDArray[np.uint8]]


@lru_cache(maxsize=2)
def _draw(size: int, slices: int, seed: int) -> tuple[Slice, ...]:
    """The slices from the feet up; drawn once, since the usual one takes a second and is asked for in many places."""
    rng = np.random.default_rng(seed)
    pixel = FIELD_OF_VIEW_MM / size
    plane = Plane.make(size, pixel)
    vessels = [tube for side in (-1, 1) for tube in bronchial_tree(rng, side)]
    bend_x, bend_y = (2.6 * smooth_noise(rng, slices, size, cells=8) for _ in range(2))
    wobble = smooth_noise(rng, slices, size, cells=22)
    texture = smooth_noise(rng, slices, size, cells=64)
    heights = (np.arange(slices) + 0.5) / slices
    between = LUNG_HEIGHT_MM / slices
    return tuple(
        _slice(
            plane,
            float(height),
            bend=(bend_x[i], bend_y[i]),
            wobble=wobble[i],
            texture=texture[i],
            tubes=vessels,
            between=between,
            rng=rng,
        )
        for i, height in enumerate(heights)
    )


def _slice(
    plane: Plane,
    height: float,
    *,
    bend: tuple[Field, Field],
    wobble: Field,
    texture: Field,
    tubes: list[Tube],
    between: float,
    rng: np.random.Generator,
) -> Slice:
    bent = plane.bent(*bend)
    cavity = _lungs(bent, height)
    hu = _mediastinum(bent, height, _chest_wall(plane, bent, height), cavity)
    effusion = _effusion(bent, height, wobble)
    glass, solid = _lesions(bent, height, wobble, texture)
    z = (height - 0.5) * LUNG_HEIGHT_MM
    lung_tissue = LUNG + 0.28 * (bent.y + 40) + 20 * texture + 10 * wobble + glass * (270 + 60 * texture + 40 * wobble)
    lung_tissue = blend(lung_tissue, draw_tubes(plane, tubes, z, thickness_mm=min(between, 4.0)), BLOOD)
    # Air in the bronchi stays dark inside consolidation: the air bronchogram.
    airways = draw_tubes(plane, tubes[::7], z, thickness_mm=6.0, narrow=0.55)
    lung_tissue = blend(lung_tissue, solid, blend(28.0 + 22 * texture, airways, -720.0))
    hu = blend(hu, cavity, blend(lung_tissue, effusion, FLUID + 6 * texture))
    lung = cavity * (1 - effusion) > 0.5
    types = np.zeros(hu.shape, np.uint8)
    types[lung & (glass > 0.5)] = GROUND_GLASS
    types[lung & (solid > 0.5)] = CONSOLIDATION
    types[cavity * effusion > 0.5] = EFFUSION
    return _scan(_trachea(bent, height, hu), plane, rng), types, lung.astype(np.uint8)


def _scan(hu: Field, plane: Plane, rng: np.random.Generator) -> NDArray[np.int16]:
    """The scanner's blur and its noise, which is correlated over a pixel or two."""
    blurred = cv2.GaussianBlur(hu, (0, 0), 0.75 / plane.pixel_mm)
    noise = cv2.GaussianBlur(rng.standard_normal(hu.shape, np.float32), (0, 0), 0.9)
    return np.rint(np.clip(blurred + 38.0 * noise, -1024, 3071)).astype(np.int16)


def _body(height: float) -> tuple[float, float]:
    """Half width and half depth of the chest in mm; it narrows towards the neck and the shoulders widen it again."""
    return 166 - 10 * height + 8 * max(0.0, height - 0.8) / 0.2, 112 - 14 * height


def _cavity(height: float) -> tuple[float, float]:
    """Half width and half depth of the space inside the ribs."""
    taper = np.sqrt(max(0.05, 1 - (max(0.0, height - 0.30) / 0.74) ** 2))
    return 132 * taper, 88 * (0.25 + 0.75 * taper)


def _lungs(plane: Plane, height: float) -> Field:
    """Both pleural spaces: the cavity without mediastinum, heart, spine and the domes of the diaphragm."""
    width, depth = _cavity(height)
    x, y = plane.x, plane.y
    inside = ellipse(plane, 0, 4, width, depth, power=2.3)
    front = 10 + 16 * np.exp(-(((y + 20) / 38) ** 2))
    back = 24 * np.exp(-(((y - 58) / 34) ** 2))
    upper = max(0.0, height - 0.7) / 0.3
    middle = np.maximum(front + 10 * upper, back + 6)
    lung = inside * soft((np.abs(x) - middle) / 1.6)
    lung = lung * (1 - _heart(plane, height, margin=4.0))
    lung = lung * (1 - ellipse(plane, 0, 66, 27, 26))
    return lung * (1 - _diaphragm(plane, height))


def _heart(plane: Plane, height: float, *, margin: float) -> Field:
    """The heart, or with a margin its sac: right chambers behind the breastbone, the tip to the left and front."""
    size = np.sqrt(max(0.0, 1 - ((height - 0.22) / 0.26) ** 2))
    if size < 0.25:
        return np.zeros_like(plane.x)
    left = ellipse(plane, 28, -22, 54 * size + margin, 36 * size + margin, angle=-0.50)
    right = ellipse(plane, -8, -24, 30 * size + margin, 34 * size + margin)
    return np.maximum(left, right)


def _diaphragm(plane: Plane, height: float) -> Field:
    """The domes of the diaphragm, the right one higher."""
    domes = np.zeros_like(plane.x)
    for side, top in ((-1, 0.17), (1, 0.07)):
        if height < top:
            radius = np.sqrt(1 - max(0.0, 1 - (top - height) / 0.20) ** 2)
            domes = np.maximum(domes, ellipse(plane, side * 66, -4, 66 * radius, 74 * radius, angle=side * 0.3))
    return domes


def _chest_wall(straight: Plane, plane: Plane, height: float) -> Field:
    """Air, table (never bent), skin, fat, muscle, ribs, sternum, shoulder blades and spine."""
    width, depth = _body(height)
    inner_width, inner_depth = _cavity(height)
    hu = np.full_like(plane.x, AIR)
    curve = straight.y - 128 + (straight.x / 60) ** 2 * 2.2
    table = soft((2.2 - np.abs(curve)) / 0.8) * soft((150 - np.abs(straight.x)) / 2)
    hu = blend(hu, table, -420.0)
    hu = blend(hu, ellipse(plane, 0, 2, width, depth, power=2.5), 20.0)
    hu = blend(hu, ellipse(plane, 0, 2, width - 2, depth - 2, power=2.5), FAT)
    hu = blend(hu, ellipse(plane, 0, 5, width - 15, depth - 13, power=2.6), MUSCLE)
    hu = blend(hu, ellipse(plane, 0, 4, inner_width + 15, inner_depth + 13, power=2.3), FAT + 30)
    hu = blend(hu, ellipse(plane, 0, 4, inner_width + 11, inner_depth + 10, power=2.3), MUSCLE)
    for side in (-1, 1):
        if height > 0.62:
            axilla = ellipse(
                plane, side * (inner_width + 22), 2, 9 + 10 * (height - 0.62) / 0.38, 52, angle=side * 0.12
            )
            hu = blend(hu, axilla, FAT)
        if height > 0.45:
            hu = _shoulder_blade(plane, hu, side, inner_width, height)
        hu = blend(hu, ellipse(plane, side * 26, 88 - 8 * height, 20, 12), MUSCLE + 8)
    hu = _ribs(plane, hu, height, inner_width + 6.5, inner_depth + 6.0)
    hu = _bone(plane, hu, 0, -inner_depth - 3, half=(17, 6.5))
    return _spine(plane, hu)


def _bone(plane: Plane, hu: Field, x: float, y: float, *, half: tuple[float, float], angle: float = 0.0) -> Field:
    width, depth = half
    hu = blend(hu, ellipse(plane, x, y, width, depth, angle=angle), CORTEX)
    return blend(hu, ellipse(plane, x, y, width - 2.4, depth - 2.4, angle=angle), MARROW)


def _ribs(plane: Plane, hu: Field, height: float, width: float, depth: float) -> Field:
    """Ribs slope, so a slice cuts each of them once; the cuts wander along the wall with the height."""
    for side in (-1, 1):
        for number in range(6):
            angle = -1.05 + 0.46 * number + 0.40 * ((height * 6.3) % 1.0 - 0.5)
            if angle > 1.30:
                continue
            x, y = side * width * np.cos(angle), 4 + depth * np.sin(angle)
            tangent = np.arctan2(depth * np.cos(angle), -side * width * np.sin(angle))
            hu = _bone(plane, hu, float(x), float(y), half=(13.0, 4.6), angle=float(tangent))
    return hu


def _shoulder_blade(plane: Plane, hu: Field, side: int, inner_width: float, height: float) -> Field:
    x, y = side * (inner_width * 0.62 + 22), 78 - 26 * (height - 0.45)
    hu = blend(hu, ellipse(plane, x, y, 42, 13, angle=-side * 0.62), MUSCLE)
    return _bone(plane, hu, x, y, half=(30, 3.6), angle=-side * 0.62)


def _spine(plane: Plane, hu: Field) -> Field:
    hu = _bone(plane, hu, 0, 66, half=(19, 15))
    for side in (-1, 1):
        hu = _bone(plane, hu, side * 21, 83, half=(15, 4.8), angle=side * 0.35)
    hu = _bone(plane, hu, 0, 101, half=(3.8, 12))
    hu = blend(hu, ellipse(plane, 0, 83, 13, 10), CORTEX)
    return blend(hu, ellipse(plane, 0, 83, 9.5, 7.5), 25.0)


def _mediastinum(plane: Plane, height: float, hu: Field, cavity: Field) -> Field:
    """Fat, heart, great vessels and gullet between the lungs, and the liver below them."""
    width, depth = _cavity(height)
    inside = ellipse(plane, 0, 4, width - 1, depth - 1, power=2.3) * (1 - cavity) * (1 - ellipse(plane, 0, 68, 27, 24))
    fat = inside * soft((66 - plane.y) / 3)
    content = blend(hu, fat, FAT + 15)
    content = blend(content, _heart(plane, height, margin=0.0), BLOOD)
    content = blend(content, _diaphragm(plane, height), 56.0)
    vessels = [(24.0, 45.0, 12.0)] if height < 0.76 else []
    if 0.36 < height < 0.74:
        vessels += [(-14.0, -24.0, 16.0), (-30.0, -14.0, 9.0)]
    if 0.42 < height < 0.60:
        vessels += [(16.0, -28.0, 14.0), (24.0, 2.0, 11.0), (-26.0, 4.0, 10.0)]
    if height >= 0.76:
        vessels += [(-16.0, -16.0, 8.0), (4.0, -12.0, 6.0), (18.0, 2.0, 6.0), (-26.0, -20.0, 7.0), (22.0, -22.0, 7.0)]
    for x, y, radius in vessels:
        content = blend(content, ellipse(plane, x, y, radius, radius), BLOOD)
    if 0.66 < height < 0.76:
        content = blend(content, ellipse(plane, 6, 8, 36, 13, angle=0.85), BLOOD)
    return blend(content, ellipse(plane, 6, 40, 8, 6), 35.0)


def _trachea(plane: Plane, height: float, hu: Field) -> Field:
    spread = 0.0 if height > 0.64 else (0.64 - height) * 190
    if height < 0.46:
        return hu
    for side in (-1, 1) if spread else (0,):
        x, y, radius = side * (8 + spread), 14 + 0.2 * spread, 8.5 if not spread else 6.5
        hu = blend(hu, ellipse(plane, x, y, radius + 1.8, radius + 1.8), 30.0)
        hu = blend(hu, ellipse(plane, x, y, radius, radius), AIR)
    return hu


def _effusion(plane: Plane, height: float, wobble: Field) -> Field:
    """Fluid behind the left lung: it settles at the back and rises along the wall (a meniscus)."""
    level = 34 + 120 * height - 0.0030 * (plane.x - 62) ** 2 + 1.5 * wobble
    return soft((plane.y - level) / 1.5) * (plane.x > 0)


def _lesions(plane: Plane, height: float, wobble: Field, texture: Field) -> tuple[Field, Field]:
    """Ground glass and consolidation, each 0..1."""
    glass, solid = (
        np.max([_blob(plane, height, at) for at in places], axis=0) for places in (GROUND_GLASS_AT, CONSOLIDATION_AT)
    )
    return (
        soft((glass + 0.26 * wobble + 0.12 * texture) / 0.16),
        soft((solid + 0.30 * wobble + 0.16 * texture) / 0.10),
    )


def _blob(plane: Plane, height: float, at: Ellipsoid) -> Field:
    """Positive inside an ellipsoid, 1 at its centre, 0 on its surface."""
    x, y, z, rx, ry, rz = at
    squared: Field = ((plane.x - x) / rx) ** 2 + ((plane.y - y) / ry) ** 2 + ((height - z) / rz) ** 2
    distance: Field = np.sqrt(squared)
    return np.float32(1) - distance
