"""`coronanet verify --server`: the skew gate."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.table import Table
from rich.text import Text

from ..console import emit_json, err, fail, out, warn
from ..engines.bundle import Bundle, Precision
from ..engines.own_slices import find_slices
from ..model.card import Window
from ..model.errors import RefusedError, UsageError
from ..model.tasks import TaskName

if TYPE_CHECKING:
    from ..engines.skew import Held
    from ..engines.triton_connection import Connection


def verify_server(
    bundles: Mapping[TaskName, Bundle],
    server: "Connection",
    *,
    data: Path | None,
    window: Window | None,
    precision: Precision | None,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Hold every bundle and what a live server makes of it against torch, and say what differs.

    Raises:
        UsageError: the server does not answer, or serves none of the tasks.
        typer.Exit: something differs (code 1).
    """
    from ..engines.skew import hold_server

    held: list[Held] = []
    for task, bundle in bundles.items():
        slices = find_slices(data, window, task)
        if not slices.real and not held:
            warn("no real CT: the skew gate looks at the synthetic phantom; pass --data DIR or set CORONANET_DATA")
        with err.status("comparing") as status:
            held += hold_server(
                bundle,
                slices,
                server,
                precision=precision,
                timeout_s=timeout_s,
                progress=lambda what, status=status: status.update(f"comparing {what}"),
            )
    if all(each.evidence.verdict == "not_run" for each in held if each.what == "ensemble"):
        raise UsageError(f"the ensemble at {server.address} has none of the outputs of {', '.join(bundles)}")
    refusals = [each.refusal for each in held if each.refusal]
    code = RefusedError.exit_code if refusals else 0
    if as_json:
        emit_json(
            {
                "server": server.address,
                "verdict": "refused" if refusals else "passed",
                "synthetic": any(each.evidence.images == "synthetic phantom" for each in held),
                "refusals": refusals,
                "held": [_json(each) for each in held],
                "exit_code": code,
            }
        )
    else:
        out.print(skew_table(held))
    for each in held:
        if each.evidence.verdict == "not_run":
            warn(f"{each.task}: {each.what} not compared: {each.evidence.reason}")
    for refusal in refusals:
        fail(refusal)
    if code:
        raise typer.Exit(code)


def skew_table(held: "Sequence[Held]") -> Table:
    """A row for everything that was compared."""
    table = Table(
        "task", "what", "model", "slices", "largest difference", "labels equal", "verdict", title="Live server"
    )
    for each in held:
        found = each.evidence
        table.add_row(
            each.task,
            each.what,
            each.model,
            str(found.slices),
            "-" if found.max_difference is None else f"{found.max_difference:.2g}",
            "-" if found.label_agreement is None else f"{found.label_agreement:.6f}",
            Text(found.verdict.replace("_", " "), style="red" if each.refusal else ""),
        )
    return table


def _json(each: "Held") -> dict[str, object]:
    return {"task": each.task, "what": each.what, "model": each.model, **each.evidence.model_dump(mode="json")}
