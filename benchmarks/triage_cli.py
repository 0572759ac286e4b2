"""`coronanet bench triage`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.table import Table

from ..console import JsonOption, emit_json, err, out, warn
from ..engines.connection_cli import (
    ServerKeyOption,
    TlsCertificateOption,
    TlsKeyOption,
    TlsOption,
    TlsRootOption,
    load_connection,
)
from ..engines.places import BundleProvider, data_home
from ..model.errors import UsageError
from ..model.tasks import TRIAGE, TaskName

if TYPE_CHECKING:
    from .bench_triage import TriageReport

TASKS: tuple[TaskName, ...] = ("classification", "binary_segmentation", "multiclass_segmentation")


def triage(
    ctx: typer.Context,
    *,
    data: Annotated[Path | None, typer.Option("--data", help="Folder of the data sets.")] = None,
    sensitivity: Annotated[
        float, typer.Option(min=0.5, max=1.0, help="The least share of infected slices that must pass the gate.")
    ] = 0.99,
    server: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="gRPC address of a server with coronanet_triage: time both models."),
    ] = None,
    tls: TlsOption = False,
    tls_root: TlsRootOption = None,
    tls_certificate: TlsCertificateOption = None,
    tls_key: TlsKeyOption = None,
    server_key: ServerKeyOption = None,
    study: Annotated[
        list[Path] | None,
        typer.Option(exists=True, help="With --server: a study to time as well, DICOM or NIfTI; may be repeated."),
    ] = None,
    bundles: Annotated[Path | None, typer.Option("--bundles", help="Folder of the bundles.")] = None,
    out_file: Annotated[Path | None, typer.Option("--out", help="Write the report to this JSON file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Choose the gate of coronanet_triage, and measure what it saves and what it loses on held-back slices.

    Chosen on training and validation slices; each held-back volume is measured with a gate chosen without it.
    """
    from ..engines.datasets import load_split
    from ..engines.ranking import choose
    from .bench_triage import measure_served, measure_triage
    from .report import write_text

    connection = load_connection(
        server, tls=tls, tls_root=tls_root, tls_certificate=tls_certificate, tls_key=tls_key, server_key=server_key
    )
    studies = study or []
    if studies and connection is None:
        raise UsageError("--study is timed on a server: pass --server 127.0.0.1:8001 as well")
    pictures = _slices(studies)
    folder = data_home(data)
    if folder is None:
        raise UsageError("bench triage needs drawn lesions: pass --data DIR or set CORONANET_DATA")
    provide: BundleProvider = ctx.obj
    opened = provide(bundles)
    if missing := [name for name in TASKS if name not in opened]:
        raise UsageError(f"bench triage needs bundles of {', '.join(TASKS)}: {missing[0]} is missing")
    with err.status("reading the slices") as status:
        split = load_split(["classification", "multiclass_segmentation"], folder, lambda error: warn(str(error)))
        report = measure_triage(opened, choose(opened), split, sensitivity, advance=status.update)
        if connection is not None:
            from ..engines.triton_engine import TritonEngine

            with TritonEngine(connection) as ensemble, TritonEngine(connection, model=TRIAGE) as gated:
                slices = [(sample.group, sample.image) for sample in split.validation]
                served = measure_served(
                    [*slices, *pictures], ensemble, gated, report.gate.threshold, advance=status.update
                )
            report = report.model_copy(update={"served": served})
    if out_file is not None:
        write_text(out_file, report.to_json())
    if as_json:
        emit_json(report.model_dump(mode="json"))
    else:
        _print(report)


def _slices(studies: Sequence[Path]) -> list[tuple[str, NDArray[np.int16]]]:
    """Every slice of the studies, int16 HU ``[H, W]``, each with the name of its study."""
    from ..model.readers import Unreadable, try_inputs

    slices: list[tuple[str, NDArray[np.int16]]] = []
    for study in try_inputs(studies):
        if isinstance(study, Unreadable):
            raise UsageError(f"{study.origin}: {study.reason}")
        slices += [(study.name, image) for image in study.image]
    return slices


def _print(report: "TriageReport") -> None:
    gate = report.gate
    out.print(
        f"gate: {gate.threshold:g}, the highest that at least {gate.target_sensitivity:g} of {gate.infected} slices "
        f"with lesions reach ({gate.slices} slices of {', '.join(gate.sources)})",
        soft_wrap=True,
    )
    table = Table(
        "held back", "gate", "slices", "segmented", "drawn", "missed", "pixels lost", "Dice", "gated", title="Triage"
    )
    for each in report.groups:
        table.add_row(
            each.group,
            f"{each.threshold:g}",
            str(each.slices),
            str(each.segmented),
            f"{each.drawn_slices} ({each.kind})",
            str(each.missed),
            *("" if share is None else f"{share:.2%}" for share in (each.drawn_lost,)),
            *("" if dice is None else f"{dice:.4f}" for dice in (each.dice, each.dice_gated)),
        )
    out.print(table)
    for each in report.served:
        out.print(
            f"served, {each.group}: {each.segmented} of {each.slices} slices segmented, {each.ensemble_s:.1f} s whole, "
            f"{each.triage_s:.1f} s gated: {each.saved:.0%} saved",
            soft_wrap=True,
        )
    out.print(report.notice, soft_wrap=True)
