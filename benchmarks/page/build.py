"""Reports of any kind to one page."""

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from ...model.errors import UsageError
from ...pages.page import render
from ..protocol import Protocol
from ..report import NOTICE, Document, EngineReport, ProofReport, Report, first_complaint
from ..schemas import DOCUMENTS
from ..serving_report import ServingReport
from ..study_report import StudyReport
from ..waterfall_report import WaterfallReport
from .of_any import any_part
from .of_engines import engines_part
from .of_proof import proof_part
from .of_serving import serving_part
from .of_study import study_part
from .of_waterfall import waterfall_part
from .section import Part

#: A report with every sample of a long sweep is some megabytes.
MOST_BYTES = 256 * 2**20


def read_report(path: Path) -> Report:
    """Read whatever a verb of `coronanet bench` wrote with ``--out``; which one, it says itself.

    Raises:
        UsageError: no such file, or no report of one run.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UsageError(f"{path} is larger than {MOST_BYTES // 2**20} MiB: expected a report of `coronanet bench`")
        text = path.read_bytes()
        verb = json.loads(text)["protocol"]["method"]["verb"]
        kind: type[Document] | None = DOCUMENTS.get(str(verb).replace(" ", "-"))
    except OSError as error:
        raise UsageError(
            f"cannot read {path}: {error.strerror}: write it with `coronanet bench engines --out {path}`"
        ) from None
    except (ValueError, KeyError, TypeError):
        kind, text = None, b""
    if kind is None or not issubclass(kind, Report):
        raise UsageError(
            f"{path} is not a report of one run: expected what `coronanet bench VERB --out FILE` wrote, and "
            "`bench compare` measures nothing"
        )
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise UsageError(f"{path} does not read as this version writes reports: {first_complaint(error)}") from None


def build_page(reports: Sequence[Report]) -> str:
    """One HTML page of all reports, in the order given, that needs nothing beside it."""
    parts = [part_of(report) for report in reports]
    first = reports[0].protocol
    return render(
        __package__ or "",
        "report.html",
        first=first,
        cards=[card for part in parts for card in part.cards][:10],
        sections=[section for part in parts for section in part.sections],
        protocols=[_protocol_rows(report.protocol) for report in reports],
        one_machine=len({report.protocol.machine.model_dump_json() for report in reports}) == 1,
        notice=NOTICE,
    )


def part_of(report: Report) -> Part:
    """What a report adds to the page."""
    if isinstance(report, EngineReport):
        return engines_part(report)
    if isinstance(report, ServingReport):
        return serving_part(report)
    if isinstance(report, WaterfallReport):
        return waterfall_part(report)
    if isinstance(report, StudyReport):
        return study_part(report)
    if isinstance(report, ProofReport):
        return proof_part(report)
    return any_part(report)


def _protocol_rows(protocol: Protocol) -> tuple[str, list[tuple[str, str]]]:
    """What was measured and how, as name and text."""
    method, software, machine, moment = protocol.method, protocol.software, protocol.machine, protocol.moment
    plan = ", ".join(f"{name} {value}" for name, value in protocol.model_dump(mode="json")["method"]["plan"].items())
    busy = "" if moment.busy_share is None else f", {moment.busy_share:.0%} of its cores busy"
    load = "" if moment.load_average is None else f", load {moment.load_average:.1f}"
    memory = f"{machine.memory_bytes / 2**30:.0f} GiB"
    rows = [
        ("measured", method.measures),
        ("transfers", method.transfers),
        ("order", method.order),
        ("plan", plan),
        ("input", f"{method.input.description}: {method.input.slices} of {method.input.shape}, {method.input.dtype}"),
        ("machine", f"{machine.cpu}, {machine.cores} cores, {memory}, {machine.system}"),
        ("CPU computes", ", ".join(machine.cpu_features) or "nothing out of the ordinary"),
        ("GPUs", "; ".join(machine.gpus) or "none"),
        ("started", f"{moment.started.replace('T', ' ').replace('+00:00', ' UTC')}{load}{busy}"),
        ("source", f"{software.source}, Python {software.python}"),
        ("packages", ", ".join(f"{name} {version}" for name, version in software.packages.items())),
        ("environment", ", ".join(f"{name}={value}" for name, value in software.environment.items())),
        ("bundles", ", ".join(f"{task} {digest[:16]}" for task, digest in software.bundles.items())),
    ]
    return method.verb, [(name, text) for name, text in rows if text]
