"""What a classifier of UCSD COVID-CT scores without looking at the lungs: from file format, borders and lettering.

A score of a network on that benchmark means something only beside this one. The baseline reads the published files as
they are, before anything is encoded alike.
"""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ...model.metrics import auc
from .images import Part, UcsdFile, decode_grey, encode_alike, ucsd_files

#: Share of a side that counts as border, and as corner, where lettering stands.
BORDER, CORNER = 0.03, 0.12
#: Weight of the squared coefficients: weak, since there are 27 features for 425 images.
RIDGE = 1.0


def border_format_baseline(
    train: Sequence[UcsdFile], test: Sequence[UcsdFile], *, encoded: bool = False
) -> NDArray[np.float64]:
    """Probability of COVID-19 ``[len(test)]`` from a logistic regression that never sees a lung.

    Args:
        encoded: whether to ask instead what is left of the shortcut for a network: borders and corners alone, of the
            images as ``ucsd_images`` gives them.

    Raises:
        UsageError: an image cannot be decoded.
    """
    read = encoded_border_features if encoded else border_format_features
    features = np.stack([read(file) for file in train])
    mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-9
    truth = np.array([file.covid for file in train], np.float64)
    weights = fit_logistic((features - mean) / spread, truth, ridge=RIDGE)
    asked = (np.stack([read(file) for file in test]) - mean) / spread
    return _sigmoid(_with_constant(asked) @ weights)


def shortcut_scores(folder: Path, split: Part, *, final: bool = False) -> dict[str, float]:
    """AUC of the baseline, taught on train: on the ``published`` files, and on the images ``encoded`` alike.

    Raises:
        UsageError: as ``ucsd_files``.
    """
    train, test = ucsd_files(folder, "train"), ucsd_files(folder, split, final=final)
    covid = np.array([file.covid for file in test])
    return {
        "published": round(auc(border_format_baseline(train, test), covid), 4),
        "encoded": round(auc(border_format_baseline(train, test, encoded=True), covid), 4),
    }


def border_format_features(file: UcsdFile) -> NDArray[np.float64]:
    """Format, mode and size of a published file, and its borders and corners: float64 ``[27]``.

    The size in bytes is left out: noise in the lungs makes a file larger.
    """
    grey = decode_grey(file.path)
    height, width = grey.shape
    kind = [file.path.suffix.lower() == ".png", file.mode == "L", file.mode == "RGBA"]
    size = [np.log(height), np.log(width), np.log(width / height), height == width]
    return np.array([*kind, *size, *_borders(grey), *_corners(grey)], np.float64)


def encoded_border_features(file: UcsdFile) -> NDArray[np.float64]:
    """Borders and corners of an image that was encoded like all others: float64 ``[20]``."""
    grey = encode_alike(decode_grey(file.path))
    return np.array([*_borders(grey), *_corners(grey)], np.float64)


def _borders(grey: NDArray[np.uint8]) -> list[float]:
    """Of each border strip: mean, share of white, share of black, spread."""
    rows, columns = (max(2, int(side * BORDER)) for side in grey.shape)
    strips = (grey[:rows], grey[-rows:], grey[:, :columns], grey[:, -columns:])
    means = [float(strip.mean()) / 255 for strip in strips]
    white = [float((strip >= 245).mean()) for strip in strips]
    black = [float((strip <= 10).mean()) for strip in strips]
    spread = [float(strip.std()) / 255 for strip in strips]
    return [*means, *white, *black, *spread]


def _corners(grey: NDArray[np.uint8]) -> list[float]:
    """Of each corner: share of pixels on a hard edge, as letters have."""
    rows, columns = (max(4, int(side * CORNER)) for side in grey.shape)
    corners = (grey[:rows, :columns], grey[:rows, -columns:], grey[-rows:, :columns], grey[-rows:, -columns:])
    shares: list[float] = []
    for corner in corners:
        values = np.ascontiguousarray(corner)
        across = cv2.Sobel(values, cv2.CV_32F, 1, 0)
        down = cv2.Sobel(values, cv2.CV_32F, 0, 1)
        shares.append(float((np.hypot(across, down) > 300).mean()))
    return shares


def fit_logistic(features: NDArray[np.float64], truth: NDArray[np.float64], *, ridge: float) -> NDArray[np.float64]:
    """Coefficients ``[F + 1]``, the constant last, of a ridge logistic regression of ``features`` ``[N, F]``.

    Newton's method (Hastie, Tibshirani, Friedman: The Elements of Statistical Learning, 4.4.1); the constant is not
    penalised.
    """
    design = _with_constant(features)
    penalty = ridge * np.eye(design.shape[1])
    penalty[-1, -1] = 0.0
    weights = np.zeros(design.shape[1])
    for _ in range(50):
        probability = _sigmoid(design @ weights)
        gradient = design.T @ (probability - truth) + penalty @ weights
        curvature = probability * (1 - probability)
        step = np.linalg.solve(design.T @ (design * curvature[:, None]) + penalty, gradient)
        weights -= step
        if np.abs(step).max() < 1e-8:
            break
    return weights


def _with_constant(features: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.hstack([features, np.ones((len(features), 1))])


def _sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-np.clip(values, -500, 500)))
