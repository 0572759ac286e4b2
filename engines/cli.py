"""`coronanet doctor`."""

from itertools import groupby

import typer
from rich.table import Table
from rich.text import Text

from ..console import JsonOption, emit_json, err, out, warn
from .doctor import Diagnosis, examine
from .trials import Trial

GIB = 2**30


def register(app: typer.Typer) -> None:
    app.command()(doctor)


def doctor(*, json: JsonOption = False) -> None:
    """Say what this machine can run, what is missing, and how to get it."""
    with err.status("trying every engine"):
        diagnosis = examine()
    if json:
        emit_json(diagnosis.to_json())
        return
    for table in (_machine(diagnosis), _packages(diagnosis), _engines(diagnosis), _verbs(diagnosis)):
        out.print(table)
    for problem in diagnosis.problems:
        warn(problem)


def _machine(diagnosis: Diagnosis) -> Table:
    machine, nvidia = diagnosis.machine, diagnosis.nvidia
    tensorrt = ", ".join(f"{module} {version}" for module, version in nvidia.tensorrt.items())
    table = Table(title="Machine", title_justify="left", show_header=False)
    for name, value in (
        ("coronanet", diagnosis.coronanet),
        ("Python", diagnosis.python),
        ("system", f"{machine.system}, {machine.architecture}"),
        ("CPU", f"{machine.cpu}, {machine.cores} cores for this process"),
        ("CPU features", ", ".join(machine.cpu_features) or "none known"),
        ("memory", f"{machine.memory_bytes / GIB:.1f} GiB"),
        ("NVIDIA GPU", "; ".join(machine.gpus) or "none (the CPU runs everything here)"),
        ("compute capability", "; ".join(gpu.compute_capability for gpu in nvidia.gpus) or "-"),
        ("driver", "; ".join(sorted({gpu.driver for gpu in nvidia.gpus})) or "-"),
        ("CUDA", f"{nvidia.cuda or 'no driver'}, cuda-python {nvidia.cuda_python or 'not installed'}"),
        ("TensorRT", tensorrt or "none"),
        ("Triton server", _triton(diagnosis)),
    ):
        _add(table, name, value)
    return table


def _triton(diagnosis: Diagnosis) -> str:
    version = diagnosis.triton_server
    return f"embedded, nvidia-pytriton {version}" if version else "none: pip install 'coronanet[serve]'"


def _packages(diagnosis: Diagnosis) -> Table:
    table = Table("extra", "installed", "missing", "to get it", title="Packages", title_justify="left")
    for extra, group in groupby(diagnosis.packages, key=lambda package: package.extra):
        packages = list(group)
        _add(
            table,
            extra,
            ", ".join(f"{package.name} {package.version}" for package in packages if package.version),
            ", ".join(package.name for package in packages if not package.version),
            next((package.remedy for package in packages if package.remedy), ""),
        )
    return table


def _engines(diagnosis: Diagnosis) -> Table:
    table = Table("engine", "precision", "here", "to get it", title="Engines", title_justify="left")
    for (backend, verdict, remedy), group in groupby(diagnosis.trials, key=_alike):
        _add(table, backend, ", ".join(trial.precision for trial in group), verdict, remedy)
    return table


def _alike(trial: Trial) -> tuple[str, str, str]:
    """What the precisions of an engine that fared the same have in common."""
    verdict = f"{trial.verdict}: {trial.reason}" if trial.reason else trial.verdict
    return trial.backend, verdict, trial.remedy or ""


def _verbs(diagnosis: Diagnosis) -> Table:
    table = Table("verb", "here", "to get it", title="Verbs", title_justify="left")
    for verb in diagnosis.verbs:
        _add(table, verb.name, "missing " + ", ".join(verb.missing) if verb.missing else "works", verb.remedy or "")
    return table


def _add(table: Table, *cells: str) -> None:
    """A row as it stands: what looks like Rich's markup is the name of an extra."""
    table.add_row(*(Text(cell) for cell in cells))
