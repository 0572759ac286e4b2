"""A request taken apart: its critical path as one bar, and under it every step where it ran."""

from ...pages import svg
from ..waterfall import COPY, DECODE, ENCODE, HAND_OVER, QUEUE, RECEIVE, RESPOND, WIRE_BACK, WIRE_OUT
from ..waterfall_report import StepRecord, WaterfallResult

WIDTH, LEFT, RIGHT = 960, 210, 20
BAR, ROW = 34, 24
CLIENT, WIRE, SERVER, WAIT = "#9aa3ad", svg.SKY, svg.PURPLE, svg.YELLOW
FIXED = {
    ENCODE: CLIENT,
    WIRE_OUT: WIRE,
    RECEIVE: SERVER,
    QUEUE: WAIT,
    COPY: "#b8a4c9",
    HAND_OVER: "#e3c7d6",
    RESPOND: SERVER,
    WIRE_BACK: WIRE,
    DECODE: CLIENT,
}
STEPS = (svg.BLUE, svg.GREEN, svg.VERMILION, svg.ORANGE, "#4d4d4d")


def fall_svg(result: WaterfallResult) -> str:
    """Milliseconds after the request's start; steps off the critical path are pale."""
    colours = FIXED | {step.model: STEPS[place % len(STEPS)] for place, step in enumerate(_networks(result))}
    total = sum(part.mean_ms for part in result.parts)
    x = svg.Scale(0, svg.top(max(total, result.mean_ms), 8), LEFT, WIDTH - RIGHT)
    parts = [svg.text(LEFT - 12, 34, "critical path", "end", fill=svg.INK, bold=True)]
    at = 0.0
    for part in result.parts:
        width = x(at + part.mean_ms) - x(at)
        words = f"{part.name}: {part.mean_ms:.2f} ms, {part.share:.1%}"
        parts.append(svg.box(x(at), 12, width, BAR, colours.get(part.name, svg.GREY), stroke="#ffffff", title=words))
        if width > 34:
            ink = "#ffffff" if colours.get(part.name) in STEPS else svg.INK
            parts.append(svg.text(x(at) + width / 2, 12 + BAR / 2 + 4, f"{part.share:.0%}", "middle", fill=ink))
        at += part.mean_ms
    rows = _rows(result)
    top = 12 + BAR + 14
    foot = top + ROW * len(rows)
    for value in x.ticks(8):
        parts.insert(0, svg.segment(x(value), 12, x(value), foot))
        parts.append(svg.text(x(value), foot + 16, svg.number(value), "middle"))
    parts.append(svg.text((LEFT + WIDTH - RIGHT) / 2, foot + 34, "ms after the request's start, means", "middle"))
    for row, (name, pieces, pale) in enumerate(rows):
        y = top + ROW * row
        parts.append(svg.text(LEFT - 12, y + 15, _short(name), "end", fill=svg.AXIS if pale else svg.INK))
        end = 0.0
        for kind, start, taken in pieces:
            colour = colours.get(kind, svg.GREY)
            words = f"{name}, {kind}: {taken:.2f} ms"
            parts.append(
                svg.box(x(start), y + 3, x(start + taken) - x(start), ROW - 8, colour, title=words, faint=pale)
            )
            end = start + taken
        spent = sum(taken for _, _, taken in pieces)
        if x(end) < WIDTH - RIGHT - 60:
            parts.append(svg.text(x(end) + 6, y + 15, f"{spent:.2f}"))
        else:
            parts.append(svg.text(x(pieces[0][1]) - 6, y + 15, f"{spent:.2f}", "end"))
    title = f"Where the time of a request goes at concurrency {result.case.concurrency}"
    return svg.svg(WIDTH, foot + 42, title, parts)


def _rows(result: WaterfallResult) -> list[tuple[str, list[tuple[str, float, float]], bool]]:
    """Name, pieces (kind, start, length in ms) and whether it is off the path, from the request's start to its end."""
    taken = {part.name: part.mean_ms for part in result.parts}
    before = [(name, taken[name]) for name in (ENCODE, WIRE_OUT, RECEIVE) if name in taken]
    after = [(name, taken[name]) for name in (RESPOND, WIRE_BACK, DECODE) if name in taken]
    rows: list[tuple[str, list[tuple[str, float, float]], bool]] = []
    at = 0.0
    for name, length in before:
        rows.append((name, [(name, at, length)], False))
        at += length
    rows += [(step.model, _pieces(step), step.on_path < 0.5) for step in result.steps]
    at = result.mean_ms - sum(length for _, length in after)
    for name, length in after:
        rows.append((name, [(name, at, length)], False))
        at += length
    return rows


def _pieces(step: StepRecord) -> list[tuple[str, float, float]]:
    at = step.start_ms
    pieces: list[tuple[str, float, float]] = []
    for kind, length in (
        (QUEUE, step.queue_ms),
        (COPY, step.input_ms),
        (step.model, step.compute_ms),
        (COPY, step.output_ms),
    ):
        pieces.append((kind, at, length))
        at += length
    return pieces


def _networks(result: WaterfallResult) -> list[StepRecord]:
    """Steps in the order of what they take, so that the long ones have the colours that differ most."""
    return sorted(result.steps, key=lambda step: -step.compute_ms)


def _short(name: str) -> str:
    return name.replace("_segmentation", "")
