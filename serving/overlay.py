"""``overlay.png``: what the networks found, drawn over the image; OpenCV draws."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..model.assessment import Assessment
from ..model.findings import Decisions, SliceFindings
from ..model.readers import NAMED_WINDOWS
from ..model.scratch import planes
from ..model.study import Study
from ..model.tasks import LESION_TYPES

Canvas = NDArray[np.uint8]
Colour = tuple[int, int, int]

DISCLAIMER = "Research use only. Not a medical device."
SYNTHETIC = "SYNTHETIC PHANTOM"
TILES = 12
TILE_WIDTH = 380
PICTURE_WIDTH = 900
GAP = 8
HEADER = 112
FOOTER = 40

#: Okabe and Ito's colours, which colour-blind people tell apart; in OpenCV's order blue, green, red.
TYPE_COLOURS: dict[int, Colour] = {1: (233, 180, 86), 2: (0, 94, 213), 3: (115, 158, 0)}
LUNG_COLOUR: Colour = (66, 228, 240)
#: What the binary network calls lesion; the share of the lung that is involved comes from it.
LESION_COLOUR: Colour = (167, 121, 204)
BACKGROUND: Colour = (24, 20, 18)
BRIGHT: Colour = (245, 243, 240)
DIM: Colour = (176, 170, 164)
ALARM: Colour = (0, 159, 230)
TINT = 0.5


@dataclass(frozen=True)
class _Box:
    """Rows and columns that are shown of every slice."""

    rows: slice
    columns: slice


def render_overlay(study: Study, assessment: Assessment, montage: Canvas) -> Canvas:
    """The picture, uint8 BGR: the montage between lines that sum it up, with the legend, and the disclaimer."""
    header, footer = (_band(montage.shape[1], height) for height in (HEADER, FOOTER))
    _write_header(header, study, assessment)
    _text(footer, DISCLAIMER, (GAP + 4, 26), size=17, colour=DIM)
    return np.vstack([header, montage, footer])


def render_montage(study: Study, decisions: Decisions, slices: Sequence[SliceFindings]) -> Canvas:
    """One slice large for an image, about twelve for a volume, uint8 BGR."""
    single = len(study.image) == 1
    shown = [0] if single else choose_slices(slices)
    box = _Box(slice(None), slice(None)) if single else _crop(decisions.lung_mask)
    tile_width = PICTURE_WIDTH if single else TILE_WIDTH
    tiles = [_tile(study, decisions, slices[index], box, tile_width) for index in shown]
    return _grid(tiles, min(4, len(tiles)))


def hex_colour(colour: Colour) -> str:
    """OpenCV's blue, green and red as a page writes them."""
    blue, green, red = colour
    return f"#{red:02x}{green:02x}{blue:02x}"


def choose_slices(slices: Sequence[SliceFindings], count: int = TILES) -> list[int]:
    """Indices of up to ``count`` slices: evenly through the lungs, the three with most lesion among them."""
    largest = max(item.lung_pixels for item in slices)
    lung = [index for index, item in enumerate(slices) if item.lung_pixels > 0.05 * largest] or list(range(len(slices)))
    if len(lung) <= count:
        return lung
    chosen = [lung[place] for place in np.linspace(0, len(lung) - 1, count).round().astype(int)]
    most = sorted((index for index in lung if slices[index].lesion_pixels), key=lambda i: -slices[i].lesion_pixels)[:3]
    for index in most:
        if index not in chosen:
            nearest = min((other for other in chosen if other not in most), key=lambda other: abs(other - index))
            chosen[chosen.index(nearest)] = index
    return sorted(chosen)


def _tile(study: Study, decisions: Decisions, found: SliceFindings, box: _Box, width: int) -> Canvas:
    index = found.slice - 1
    where = (index, box.rows, box.columns)
    image = study.image[where]
    row_mm, column_mm = study.spacing_mm[1:] if study.spacing_mm else (1.0, 1.0)
    # At least a few pixels, at most a portrait: a sliver of an image must not make a picture of a mile.
    height = int(np.clip(width * (image.shape[0] * row_mm) / (image.shape[1] * column_mm), 48, 2 * width))
    size = (width, height)
    smooth = cv2.INTER_AREA if image.shape[1] > width else cv2.INTER_CUBIC
    tile = cv2.cvtColor(cv2.resize(_grey(image, study.window_hu), size, interpolation=smooth), cv2.COLOR_GRAY2BGR)
    tile = _paint(
        tile.astype(np.uint8),
        _enlarge(decisions.lesion_types[where], size, TYPE_COLOURS),
        _enlarge(decisions.lesion_mask[where], size, (1,)),
        _enlarge(decisions.lung_mask[where], size, (1,)),
    )
    _label(tile, study, found)
    return tile


def _grey(image: NDArray[np.int16], window: tuple[float, float] | None) -> Canvas:
    lung = NAMED_WINDOWS["lung"]
    low, high = window or (lung.low_hu, lung.high_hu)
    return np.rint(255 * np.clip((image.astype(np.float32) - low) / (high - low), 0, 1)).astype(np.uint8)


def _enlarge(labels: NDArray[np.uint8], size: tuple[int, int], values: Sequence[int] | dict[int, Colour]) -> Canvas:
    """Labels at another size with smooth outlines."""
    result = np.zeros(size[::-1], np.uint8)
    for value in values:
        share = cv2.resize((labels == value).astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
        result[share >= 0.5] = value
    return result


def _paint(tile: Canvas, types: Canvas, lesion: Canvas, lung: Canvas) -> Canvas:
    tinted = tile.astype(np.float32)
    for value, colour in TYPE_COLOURS.items():
        tinted[types == value] = (1 - TINT) * tinted[types == value] + TINT * np.array(colour, np.float32)
    painted = np.rint(tinted).astype(np.uint8)
    _outline(painted, lung, LUNG_COLOUR)
    # Two pixels outside, so that both lines are seen where the two lesion networks agree.
    _outline(painted, cv2.dilate(lesion, np.ones((5, 5), np.uint8)).astype(np.uint8), LESION_COLOUR)
    for value, colour in TYPE_COLOURS.items():
        _outline(painted, (types == value).astype(np.uint8), colour)
    return painted


def _outline(picture: Canvas, mask: Canvas, colour: Colour) -> None:
    contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, contours, -1, colour, 1, cv2.LINE_AA)


def _label(tile: Canvas, study: Study, found: SliceFindings) -> None:
    height, width = tile.shape[:2]
    if len(study.image) > 1:
        _text(tile, f"slice {found.slice} / {len(study.image)}", (10, 24), size=17, shadow=True)
        _text(tile, f"p {found.infected_probability:.2f}", (width - 10, 24), size=17, right=True, shadow=True)
    if _is_oriented(study):
        _text(tile, "R", (10, height // 2), size=17, colour=DIM, shadow=True)
        _text(tile, "L", (width - 10, height // 2), size=17, colour=DIM, right=True, shadow=True)


def _is_oriented(study: Study) -> bool:
    """Whether the columns are known to run to the patient's left, so that R and L can be written beside them."""
    if study.affine is None or not study.tells_sides:
        return False
    column = study.affine[:3, 0]
    return bool(-column[0] > 0.9 * np.linalg.norm(column))


def _crop(lung_mask: NDArray[np.uint8]) -> _Box:
    """Around the lungs of the whole study with a margin for the chest wall; everything where there is no lung."""
    shadow = np.zeros(lung_mask.shape[1:], np.uint8)
    for (lung,) in planes(lung_mask):
        shadow |= lung
    rows, columns = (np.flatnonzero(shadow.any(axis=axis)) for axis in (1, 0))
    if rows.size == 0:
        return _Box(slice(None), slice(None))
    return _Box(_widen(rows, lung_mask.shape[1]), _widen(columns, lung_mask.shape[2]))


def _widen(places: NDArray[np.intp], size: int) -> slice:
    first, last = int(places[0]), int(places[-1])
    margin = 8 + (last - first) // 6
    return slice(max(0, first - margin), min(size, last + 1 + margin))


def _grid(tiles: Sequence[Canvas], columns: int) -> Canvas:
    height, width = tiles[0].shape[:2]
    rows = -(-len(tiles) // columns)
    # Never narrower than what the header has to say.
    grid = _band(max(columns * (width + GAP), PICTURE_WIDTH) + GAP, rows * (height + GAP))
    for place, tile in enumerate(tiles):
        top, left = place // columns * (height + GAP), GAP + place % columns * (width + GAP)
        grid[top : top + height, left : left + width] = tile
    return grid


def _band(width: int, height: int) -> Canvas:
    return np.full((height, width, 3), BACKGROUND, np.uint8)


def _write_header(header: Canvas, study: Study, assessment: Assessment) -> None:
    left, right = GAP + 4, header.shape[1] - GAP - 4
    end = _text(header, "Corona-Net", (left, 34), size=25)
    if study.kind == "phantom":
        _text(header, SYNTHETIC, (right, 34), size=21, colour=ALARM, right=True)
    elif assessment.findings.agreement.flagged:
        _text(header, "networks disagree, read with care", (right, 34), size=17, colour=ALARM, right=True)
    _text(header, _what(study), (end + 18, 34), size=17, colour=DIM)
    _text(header, _summary(study, assessment), (left, 66), size=19)
    end = left
    lines = {"lung": LUNG_COLOUR, "lesion (binary network)": LESION_COLOUR}
    for name, colour in (lines | {LESION_TYPES[value]: tint for value, tint in TYPE_COLOURS.items()}).items():
        swatch = header[86:100, end : end + 22]
        swatch[:] = (
            BACKGROUND if name in lines else np.rint(TINT * np.array(colour) + (1 - TINT) * 150).astype(np.uint8)
        )
        cv2.rectangle(header, (end, 86), (end + 21, 99), colour, 1)
        end = _text(header, name, (end + 30, 99), size=17, colour=DIM) + 26


def _what(study: Study) -> str:
    count, rows, columns = study.image.shape
    return f"{rows} x {columns} pixels" if count == 1 else f"{count} slices of {rows} x {columns} pixels"


def _summary(study: Study, assessment: Assessment) -> str:
    highest = "highest " if len(study.image) > 1 else ""
    parts = [f"{highest}infected probability {assessment.findings.highest_infected_probability:.2f}"]
    involved = assessment.severity.whole.percent_involved
    parts.append("no lung found" if involved is None else f"{involved:.1f} % of the lung involved (binary network)")
    return ",  ".join(parts)


def _text(
    canvas: Canvas,
    text: str,
    at: tuple[int, int],
    *,
    size: int,
    colour: Colour = BRIGHT,
    right: bool = False,
    shadow: bool = False,
) -> int:
    """Write a line with its baseline at ``at`` (x, y), starting, or with ``right`` ending there; the x where it ends.

    OpenCV's letters are strokes: drawn four times as large and shrunk, they are smooth.
    """
    font, zoom = cv2.FONT_HERSHEY_SIMPLEX, 4
    scale = cv2.getFontScaleFromHeight(font, round(size * 0.72 * zoom), 1)
    stroke = max(1, round(size * zoom / 9.5))
    (wide, high), below = cv2.getTextSize(text, font, scale, stroke)
    pad = 2 * zoom
    mask = np.zeros((high + below + 2 * pad, wide + 2 * pad), np.uint8)
    cv2.putText(mask, text, (pad, pad + high), font, scale, (255,), stroke, cv2.LINE_AA)
    small = cv2.resize(mask, (mask.shape[1] // zoom, mask.shape[0] // zoom), interpolation=cv2.INTER_AREA)
    x = at[0] - (small.shape[1] if right else 0) - (0 if right else 2)
    y = at[1] - (pad + high) // zoom
    if shadow:
        halo = cv2.GaussianBlur(cv2.dilate(small, np.ones((3, 3), np.uint8)), (0, 0), 1.2)
        _stamp(canvas, halo, (x, y), (0, 0, 0))
    _stamp(canvas, small, (x, y), colour)
    return x + small.shape[1]


def _stamp(canvas: Canvas, mask: NDArray[Any], at: tuple[int, int], colour: Colour) -> None:
    """Colour through a mask, as much of it as lies on the canvas."""
    x, y = max(0, at[0]), max(0, at[1])
    part = mask[y - at[1] :, x - at[0] :][: canvas.shape[0] - y, : canvas.shape[1] - x, None].astype(np.float32) / 255
    area = canvas[y : y + part.shape[0], x : x + part.shape[1]]
    area[:] = np.rint(area * (1 - part) + np.array(colour, np.float32) * part).astype(np.uint8)
