"""`prove` on the page: what was called of the same thing and of one with a slowdown planted, and by what."""

from ..report import ProofReport
from .of_engines import comparisons_grid
from .section import Grid, Part, Section


def proof_part(report: ProofReport) -> Part:
    """A section of the counts, and one for each of the two kinds of comparison."""
    names = {"same": "the same thing", "planted": f"B slower by {report.slowdown:.0%}"}
    verdicts = list(dict.fromkeys(verdict for counts in report.verdicts.values() for verdict in counts))
    rows = [
        [names[kind], *(str(counts.get(verdict, 0)) for verdict in verdicts)]
        for kind, counts in report.verdicts.items()
    ]
    counted = Section("Can the verdicts be believed", grids=[Grid(("B against A",), verdicts, rows)])
    found = {"same": report.same, "planted": report.planted}
    each = [Section(f"B over A: {names[kind]}", grids=[comparisons_grid(one)]) for kind, one in found.items()]
    return Part(sections=[counted, *each])
