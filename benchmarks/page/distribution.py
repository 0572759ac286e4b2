"""How latencies spread: a hill of all samples for every result, with the percentiles marked under it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...pages import svg
from ..timing import NS_PER_MS

WIDTH, LEFT, RIGHT, TOP, ROW = 960, 250, 190, 26, 34
BINS = 90


@dataclass(frozen=True)
class Hill:
    """One result: every sample in nanoseconds."""

    name: str
    durations_ns: Sequence[int]
    colour: str


def distribution_svg(title: str, hills: Sequence[Hill]) -> str:
    """One row a result, all on one logarithmic axis of milliseconds."""
    samples = [np.asarray(hill.durations_ns) / NS_PER_MS for hill in hills]
    low, high = svg.log_range([float(each.min()) for each in samples] + [float(each.max()) for each in samples])
    x = svg.Scale(low, high, LEFT, WIDTH - RIGHT, log=True)
    foot = TOP + ROW * len(hills)
    parts: list[str] = []
    for value in x.ticks(9):
        parts.append(svg.segment(x(value), TOP, x(value), foot))
        parts.append(svg.text(x(value), foot + 16, svg.number(value), "middle"))
    parts.append(svg.text((LEFT + WIDTH - RIGHT) / 2, foot + 34, "latency, ms", "middle"))
    for place, words in enumerate(("p50", "p95", "p99")):
        parts.append(svg.text(WIDTH - RIGHT + 66 + 58 * place, TOP - 8, words, "end"))
    edges = np.geomspace(low, high, BINS + 1)
    for row, (hill, values) in enumerate(zip(hills, samples, strict=True)):
        base = TOP + ROW * (row + 1) - 8
        # Clipped, since rounding may put the outermost edge on this side of the outermost sample.
        counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0].astype(float)
        heights = np.convolve(counts, [0.25, 0.5, 0.25], mode="same")
        heights *= (ROW - 12) / max(heights.max(), 1e-9)
        seen = np.flatnonzero(heights > 0.05)
        tops = [(x(float(edges[at : at + 2].mean())), base - float(heights[at])) for at in range(seen[0], seen[-1] + 1)]
        parts.append(svg.segment(LEFT, base, WIDTH - RIGHT, base, svg.GREY))
        parts.append(svg.polygon([(tops[0][0], base), *tops, (tops[-1][0], base)], hill.colour, hill.colour))
        parts.append(svg.text(LEFT - 12, base - 1, hill.name, "end", fill=svg.INK))
        for place, percent in enumerate((50, 95, 99)):
            value = float(np.percentile(values, percent))
            parts.append(
                svg.segment(x(value), base - 1, x(value), base + 6, svg.INK, width=2.4 if percent == 50 else 1.4)
            )
            words = f"{value:.1f}" if value < 1000 else f"{value:.0f}"
            parts.append(svg.text(WIDTH - RIGHT + 66 + 58 * place, base - 1, words, "end", fill=svg.INK))
    return svg.svg(WIDTH, foot + 42, title, parts)
