"""`coronanet doctor`."""

from itertools import groupby

import typer
from rich.table import Table

from ..console import JsonOption, emit_json, out, warn
from .doctor import Diagnosis, examine

GIB = 2**30


def register(app: typer.Typer) -> None:
    app.command()(doctor)


def doctor(*, json: JsonOption = False) -> None:
    """Say what this machine can run, what is missing, and how to get it."""
    diagnosis = examine()
    if json:
        emit_json(diagnosis.to_json())
        return
    for table in (_machine(diagnosis), _packages(diagnosis), _verbs(diagnosis)):
        out.print(table)
    for problem in diagnosis.problems:
        warn(problem)


def _machine(diagnosis: Diagnosis) -> Table:
    machine = diagnosis.machine
    table = Table(title="Machine", title_justify="left", show_header=False)
    for name, value in (
        ("coronanet", diagnosis.coronanet),
        ("Python", diagnosis.python),
        ("system", f"{machine.system}, {machine.architecture}"),
        ("CPU", f"{machine.cpu}, {machine.cores} cores for this process"),
        ("CPU features", ", ".join(machine.cpu_features) or "none known"),
        ("memory", f"{machine.memory_bytes / GIB:.1f} GiB"),
        ("NVIDIA GPU", "; ".join(machine.gpus) or "none (the CPU runs everything here)"),
        ("Triton server", "embedded" if diagnosis.triton_server else "none: pip install 'coronanet[serve]'"),
    ):
        table.add_row(name, value)
    return table


def _packages(diagnosis: Diagnosis) -> Table:
    table = Table("extra", "installed", "missing", title="Packages", title_justify="left")
    for extra, group in groupby(diagnosis.packages, key=lambda package: package.extra):
        packages = list(group)
        table.add_row(
            extra,
            ", ".join(f"{package.name} {package.version}" for package in packages if package.version),
            ", ".join(package.name for package in packages if not package.version),
        )
    return table


def _verbs(diagnosis: Diagnosis) -> Table:
    table = Table("verb", "here", "to get it", title="Verbs", title_justify="left")
    for verb in diagnosis.verbs:
        table.add_row(verb.name, "missing " + ", ".join(verb.missing) if verb.missing else "works", verb.remedy or "")
    return table
