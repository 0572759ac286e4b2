"""Augmentation of the talk, on HU, image and labels together: one affine map and one elastic field per slice.

Views are part of it: a network must bear the whole field of view of a scanner, slices cropped to the lungs, and every
quarter turn, because the data sets and the clinics differ in all three.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ..engines.samples import UNKNOWN, Sample

AIR_HU = -1024


@dataclass(frozen=True)
class Augmentation:
    """How far a slice may be bent; lengths are shares of the view, angles in degrees, intensities in HU.

    Attributes:
        crop_to_lungs: how often a slice is cropped to its lungs, where they are known.
        smallest_view, largest_view: the scale shift: the side of the random crop.
        rotation_degrees: the usual tilt, on top of a random quarter turn and flips.
        any_angle: how often the tilt is any angle at all.
        aspect: stretch of one axis against the other, as a logarithm.
        elastic: strength of the elastic displacement: its knots have half of this as standard deviation.
        contrast, shift_hu: gain (as a logarithm) and offset of another scanner or of a window guessed wrongly.
        gamma: exponent (as a logarithm) of a picture that was brightened or darkened.
        noise_hu: largest standard deviation of the noise.
        surroundings: how often what lies around the body is drawn anew, where the slice shows where the body ends.
    """

    crop_to_lungs: float = 0.5
    smallest_view: float = 0.7
    largest_view: float = 1.25
    rotation_degrees: float = 20.0
    any_angle: float = 0.15
    aspect: float = 0.15
    elastic: float = 0.02
    contrast: float = 0.35
    shift_hu: float = 150.0
    gamma: float = 0.3
    noise_hu: float = 40.0
    surroundings: float = 0.6


class View(NamedTuple):
    """What one training step sees of a slice: ``image`` int16 HU, ``labels`` and ``lung`` uint8, all ``[h, w]``.

    ``lung`` is ``UNKNOWN`` everywhere where the slice has no lung mask.
    """

    image: NDArray[np.int16]
    labels: NDArray[np.uint8]
    lung: NDArray[np.uint8]


def augment(sample: Sample, size: tuple[int, int], how: Augmentation, rng: np.random.Generator) -> View:
    """A random view of a slice, ``size`` (height, width)."""
    matrix = _random_view(sample, size, how, rng)
    columns, rows = _sampling_grid(matrix, size, how, rng)
    image = cv2.remap(sample.image.astype(np.float32), columns, rows, cv2.INTER_LINEAR, borderValue=(AIR_HU,))
    if sample.outside.any() and rng.random() < how.surroundings:
        outside = cv2.remap(sample.outside, columns, rows, cv2.INTER_NEAREST, borderValue=(1,)) == 1
        image = np.where(outside, _surroundings(image, rng), image)
    labels = cv2.remap(sample.labels, columns, rows, cv2.INTER_NEAREST, borderValue=(0,))
    lung = np.full(size, UNKNOWN, np.uint8)
    if sample.lung is not None:
        lung = cv2.remap(sample.lung, columns, rows, cv2.INTER_NEAREST, borderValue=(0,)).astype(np.uint8)
    return View(_jitter(image, how, rng), labels.astype(np.uint8), lung)


def _random_view(
    sample: Sample, size: tuple[int, int], how: Augmentation, rng: np.random.Generator
) -> NDArray[np.float64]:
    """The affine map ``[2, 3]`` from the canvas to the slice."""
    height, width = sample.image.shape
    top, left, bottom, right = 0, 0, height, width
    if sample.lung_box is not None and rng.random() < how.crop_to_lungs:
        top, left, bottom, right = sample.lung_box
    scale = math.exp(rng.uniform(math.log(how.smallest_view), math.log(how.largest_view)))
    stretch = math.exp(rng.uniform(-how.aspect, how.aspect))
    view = np.array([(right - left) * scale * stretch, (bottom - top) * scale / stretch])
    slack = np.abs(np.array([right - left, bottom - top]) - view) / 2 + 0.04 * view
    centre = np.array([(left + right) / 2, (top + bottom) / 2]) + rng.uniform(-1, 1, 2) * slack
    tilt = 180.0 if rng.random() < how.any_angle else how.rotation_degrees
    angle = math.radians(rng.uniform(-tilt, tilt))
    turn = rng.integers(4) * math.pi / 2
    flip = np.diag(np.where(rng.random(2) < 0.5, -1.0, 1.0))
    # canvas -> unit square -> quarter turn and flip -> view in pixels -> small rotation about its centre
    linear = _rotation(angle) @ np.diag(view) @ _rotation(turn) @ flip @ np.diag([1 / size[1], 1 / size[0]])
    offset = centre - linear @ (np.array([size[1], size[0]]) - 1) / 2
    return np.hstack([linear, offset[:, None]])


def _rotation(angle: float) -> NDArray[np.float64]:
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def _sampling_grid(
    matrix: NDArray[np.float64], size: tuple[int, int], how: Augmentation, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Where each canvas pixel is read from: (columns, rows), float32 ``size``."""
    height, width = size
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    x, y = (axis + _elastic_field(size, how.elastic * max(size) / 2, rng) for axis in (x, y))
    columns = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]
    rows = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]
    return columns.astype(np.float32), rows.astype(np.float32)


def _elastic_field(size: tuple[int, int], strength: float, rng: np.random.Generator) -> NDArray[Any]:
    """A coarse random field, blown up to ``size``: displacements in pixels that are smooth like tissue."""
    return strength * _blobs(size, (5, 5), rng)


def _surroundings(image: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Air without the black corners of a round field of view, cloth, bundles of it and the lines of sheets, in HU.

    Air can be as dark as lung, a sheet as fine as a vessel and cloth as loose as ground glass, so a network must have
    seen them where no lung is.
    """
    if rng.random() < 0.7:
        image = np.full(image.shape, rng.uniform(-1150, -850), np.float32)
    if rng.random() < 0.6:
        fine = image.shape[0] // 8
        cloth = rng.uniform(-950, -250) + rng.uniform(10, 150) * _blobs(image.shape, (fine, fine), rng)
        where = _blobs(image.shape, (int(rng.integers(4, 14)), int(rng.integers(4, 14))), rng)
        image = np.where(where > rng.uniform(0.2, 1.0), cloth, image)
    if rng.random() < 0.5:
        image = _bundles(image, rng)
    if rng.random() < 0.6:
        sheet = _blobs(image.shape, (int(rng.integers(4, 20)), int(rng.integers(4, 20))), rng)
        image = np.where(np.abs(sheet) < rng.uniform(0.02, 0.1), rng.uniform(-900, -200), image)
    return image


def _bundles(image: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Bundled cloth (a sleeve, a pillow): ellipses up to the size of a lung, as dense and uneven as lesions."""
    height, width = image.shape
    filled = np.zeros(image.shape, np.uint8)
    for _ in range(int(rng.integers(1, 5))):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        axes = (int(rng.uniform(0.03, 0.2) * width), int(rng.uniform(0.03, 0.2) * height))
        cv2.ellipse(filled, centre, axes, float(rng.uniform(0, 180)), 0, 360, (1,), -1)
    fine = max(2, int(rng.uniform(0.03, 0.25) * height))
    cloth = rng.uniform(-850, -200) + rng.uniform(20, 200) * _blobs(image.shape, (fine, fine), rng)
    ragged = _blobs(image.shape, (fine, fine), rng) > rng.uniform(-3, -0.5)
    return np.where((filled == 1) & ragged, cloth, image)


def _blobs(size: tuple[int, ...], grid: tuple[int, int], rng: np.random.Generator) -> NDArray[Any]:
    """Noise of unit deviation on a ``grid``, blown up to ``size`` smoothly, which lowers the deviation."""
    coarse = rng.normal(0, 1, grid).astype(np.float32)
    return cv2.resize(coarse, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)


def _jitter(image: NDArray[Any], how: Augmentation, rng: np.random.Generator) -> NDArray[np.int16]:
    """Another scanner's contrast, another window's clipping and another hand's brightness, blur and noise."""
    gain = math.exp(rng.uniform(-how.contrast, how.contrast))
    image = (image + 600) * gain - 600 + rng.uniform(-how.shift_hu, how.shift_hu)
    if rng.random() < 0.3:
        low, span = -1350.0, 1500.0
        share = np.clip((image - low) / span, 0, 1)
        image = low + span * share ** math.exp(rng.uniform(-how.gamma, how.gamma))
    if rng.random() < 0.3:
        image = np.clip(image, rng.uniform(-1350, -950), rng.uniform(0, 400))
    if rng.random() < 0.3:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.2))
    if rng.random() < 0.5:
        image = image + rng.normal(0, rng.uniform(0, how.noise_hu), image.shape)
    return np.clip(np.rint(image), -32768, 32767).astype(np.int16)
