"""The weights that ship, as bundles: exported on first use, opened afterwards."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ..console import err, warn
from ..engines.bundle import CARD, MANIFEST, REMEDY, WEIGHTS, Bundle, hash_file
from ..engines.machine import installed_version
from ..engines.own_slices import find_slices
from ..engines.places import ROOT, bundle_home
from ..model.card import Window
from ..model.errors import MissingPackageError, RefusedError
from ..model.tasks import TASK_NAMES, TaskName

if TYPE_CHECKING:
    from ..model.networks import Builder

PRETRAINED = ROOT / "model" / "pretrained"


def provide_bundles(folder: Path | None) -> dict[TaskName, Bundle]:
    """The bundles of the four tasks in ``folder`` (None: the usual place), exported first where they are not there.

    In the usual place a bundle of other weights than those that ship, or of other versions of the tools, is replaced;
    in a folder that the user names it is left alone.

    Raises:
        RefusedError: a bundle was tampered with or stands under another's name, or a gate refused an export; an fp16
            network that a gate refuses on this machine is left out with a warning.
        MissingPackageError: something must be exported and torch is not installed.
    """
    home = bundle_home(folder)
    bundles: dict[TaskName, Bundle] = {}
    for name in TASK_NAMES:
        if (home / name / MANIFEST).is_file():
            bundle = Bundle.open(home / name)
            if bundle.card.task != name:
                raise RefusedError(
                    f"{home / name} holds {bundle.card.task}: put it back under its own name, or {REMEDY}"
                )
            if folder is not None or (holds(bundle, PRETRAINED / name) and same_tools(bundle)):
                bundles[name] = bundle
    if missing := [name for name in TASK_NAMES if name not in bundles]:
        sources = [PRETRAINED / name for name in missing]
        bundles |= export_all(sources, home, half=True, half_is_optional=True, data=None)
    return {name: bundles[name] for name in TASK_NAMES}


def holds(bundle: Bundle, source: Path) -> bool:
    """Whether a bundle was made of exactly the card and the weights in ``source``."""
    hashes = {record.path: record.sha256 for record in bundle.manifest.files}
    return all(hashes.get(name) == hash_file(source / name) for name in (CARD, WEIGHTS))


def same_tools(bundle: Bundle) -> bool:
    """Whether exporting here would use the versions that a bundle was made with; true where nothing can be exported."""
    installed = {name: installed_version(name) for name in bundle.manifest.tools}
    return None in installed.values() or installed == bundle.manifest.tools


def export_all(
    sources: Sequence[Path],
    out: Path,
    *,
    half: bool,
    half_is_optional: bool = False,
    data: Path | None,
    window: Window | None = None,
    builder: "Builder | None" = None,
) -> dict[TaskName, Bundle]:
    """Export folders of card and weights to ``out``, with progress on stderr.

    Args:
        data: as in ``find_slices``, and ``window`` too.
        builder: makes the network of cards whose family is ``own``.

    Raises:
        MissingPackageError: torch or onnx is not installed.
        UsageError, RefusedError: as ``pipeline.export_bundle``.
    """
    try:
        from .pipeline import export_bundle
    except ModuleNotFoundError as error:
        raise MissingPackageError(error.name or "torch", purpose="the export", extra="train,cpu") from None
    slices = find_slices(data, window)
    if not slices.real:
        warn("no real CT: parity runs on the synthetic phantom; pass --data DIR or set CORONANET_DATA")
    bundles: dict[TaskName, Bundle] = {}
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=err) as progress:
        for source in sources:
            line = progress.add_task(f"exporting {source.name}", total=1)
            bundle = export_bundle(
                source,
                out,
                slices,
                half=half,
                half_is_optional=half_is_optional,
                builder=builder,
                progress=lambda what, line=line: progress.update(line, description=what),
            )
            if half and bundle.manifest.graph("network", "fp16") is None:
                warn(f"{bundle.card.task}: fp16 does not decide what torch decides on this machine and was left out")
            progress.update(line, description=f"{bundle.card.task}: exported", completed=1)
            bundles[bundle.card.task] = bundle
    return bundles
