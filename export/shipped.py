"""The weights that ship, as bundles: exported on first use, opened afterwards."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ..console import err, warn
from ..engines.bundle import (
    CARD,
    MANIFEST,
    REMEDY,
    WEIGHTS,
    Bundle,
    CalibrationMethod,
    PlanTarget,
    Quantizer,
    hash_file,
)
from ..engines.machine import installed_version, observe_machine, saturates_int8
from ..engines.non_inferiority import MARGIN
from ..engines.own_slices import find_calibration, find_slices, slices_at_hand
from ..engines.places import ROOT, bundle_home
from ..engines.plans import FOLDER, plans_of
from ..engines.slices import GateSlices, phantom_slices
from ..model.card import Card, Window
from ..model.errors import MissingPackageError, RefusedError, UsageError
from ..model.tasks import TASK_NAMES, TaskName
from .options import MAX_BATCH, Wanted

if TYPE_CHECKING:
    from ..engines.keys import PublicKey, SigningKey
    from ..model.networks import Builder

PRETRAINED = ROOT / "model" / "pretrained"


def provide_bundles(
    folder: Path | None, *, key: "PublicKey | None" = None, tasks: Sequence[TaskName] | None = None
) -> dict[TaskName, Bundle]:
    """The bundles of the ``tasks`` in ``folder``, exported first where they are not there.

    Without ``tasks`` there are all four; without ``folder`` they lie in the usual place.

    In the usual place a bundle of other weights than those that ship, or of other versions of the tools, is replaced;
    unless it is signed or has TensorRT plans, which only an export that was asked for replaces; in a folder that the
    user names it is left alone. With a ``key`` every bundle must carry its signature, and is taken as it stands.

    Raises:
        UsageError: a bundle is not there and a ``key`` was given: what is exported on first use is not signed.
        RefusedError: a bundle is not signed with ``key``, was tampered with or stands under another's name, or a gate
            refused an export; a reduced precision that a gate refuses on this machine is left out with a warning.
        MissingPackageError: something must be exported and torch is not installed.
    """
    home = bundle_home(folder)
    wanted = TASK_NAMES if tasks is None else tasks
    bundles: dict[TaskName, Bundle] = {}
    for name in wanted:
        if (home / name / MANIFEST).is_file():
            bundle = Bundle.open(home / name, key=key)
            if bundle.card.task != name:
                raise RefusedError(
                    f"{home / name} holds {bundle.card.task}: put it back under its own name, or {REMEDY}"
                )
            if folder is not None or key is not None or (holds(bundle, PRETRAINED / name) and same_tools(bundle)):
                bundles[name] = bundle
            elif bundle.signature is not None or plans_of(bundle.manifest):
                bundles[name] = bundle
                warn(
                    f"{bundle.path} is not of the weights and tools that are installed, and stays, since it is signed "
                    f"or has TensorRT plans: `coronanet export {name}` replaces it"
                )
    if missing := [name for name in wanted if name not in bundles]:
        if key is not None:
            raise UsageError(
                f"no bundle at {home / missing[0]}, and what is exported on first use is not signed: "
                f"export it with `coronanet export {missing[0]} --sign KEY`, --out where the others are"
            )
        sources = [PRETRAINED / name for name in missing]
        bundles |= export_all(sources, home, half=True, int8=wants_int8(), optional=True, data=None)
    return {name: bundles[name] for name in wanted}


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
    half: bool = False,
    int8: bool = False,
    optional: bool = False,
    method: CalibrationMethod = "min-max",
    quantizer: Quantizer = "onnxruntime",
    margin: float = MARGIN,
    max_batch: int = MAX_BATCH,
    rebuilds: int = 1,
    targets: Sequence[PlanTarget] = (),
    data: Path | None,
    window: Window | None = None,
    builder: "Builder | None" = None,
    signer: "SigningKey | None" = None,
) -> dict[TaskName, Bundle]:
    """Export folders of card and weights to ``out``, with progress on stderr.

    Args:
        half, int8: which networks to write beside the fp32 one.
        optional, method, quantizer, margin, max_batch, rebuilds, targets, builder, signer: as in ``options.Wanted``.
        data, window: where real slices are, as in ``own_slices.find_slices``; where a reduced precision is optional, as
            in ``own_slices.slices_at_hand``.

    Raises:
        MissingPackageError: torch or onnx is not installed.
        UsageError: int8 is wanted and there are no training slices; or as ``pipeline.export_bundle``.
        RefusedError: as ``pipeline.export_bundle``.
    """
    try:
        from .pipeline import export_bundle
    except ModuleNotFoundError as error:
        raise MissingPackageError(error.name or "torch", purpose="the export", extra="train,cpu") from None
    wanted = Wanted(
        half=half,
        method=method,
        quantizer=quantizer,
        margin=margin,
        optional=optional,
        max_batch=max_batch,
        rebuilds=rebuilds,
        targets=tuple(targets),
        builder=builder,
        signer=signer,
    )
    calibration = find_calibration(data, window) if int8 else None
    tasks: list[TaskName] = [Card.load(source / CARD).task for source in sources]
    if twice := sorted({task for task in tasks if tasks.count(task) > 1}):
        raise UsageError(f"two networks for {twice[0]}, and a folder of bundles holds one a task: export them apart")
    bundles: dict[TaskName, Bundle] = {}
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=err) as progress:
        for source, task in zip(sources, tasks, strict=True):
            # On first use nobody can be asked for a window.
            slices = (slices_at_hand(data, task) or phantom_slices()) if optional else find_slices(data, window, task)
            if not slices.real and not bundles:
                warn(
                    "no real CT: parity runs on the synthetic phantom, and no reduced precision is chosen before its "
                    "gates ran; pass --data DIR or set CORONANET_DATA"
                )
            line = progress.add_task(f"exporting {source.name}", total=1)
            before = _plans_in(out / task)
            ranges = None if calibration is None else _apart(calibration, slices, optional=optional)
            bundle = export_bundle(
                source,
                out,
                slices,
                replace(wanted, calibration=ranges),
                progress=lambda what, line=line: progress.update(line, description=what),
            )
            written = {record.precision for record in bundle.manifest.files}
            for precision in ("fp16", "int8"):
                if {"fp16": half, "int8": ranges is not None}[precision] and precision not in written:
                    warn(f"{bundle.card.task}: {precision} did not pass its gates on this machine and was left out")
            if lost := sorted(before - _plans_in(bundle.path)):
                warn(
                    f"{task}: {', '.join(lost)} of the bundle that was replaced went with it: of another network, for "
                    "other batches, or not of the key that signs; build again with --tensorrt"
                )
            progress.update(line, description=f"{bundle.card.task}: exported", completed=1)
            bundles[bundle.card.task] = bundle
    return bundles


def _apart(calibration: GateSlices, judged: GateSlices, *, optional: bool) -> GateSlices | None:
    """The slices for the ranges of int8 that do not judge it; where it is optional and there are none, None."""
    try:
        return calibration.without(judged)
    except UsageError:
        if not optional:
            raise
        return None


def _plans_in(bundle: Path) -> set[str]:
    """The plans that lie in a bundle, whether it can be opened or not."""
    return {path.name for path in (bundle / FOLDER).glob("*.plan")}


def wants_int8() -> bool:
    """Whether what is exported on first use includes int8: there are training slices for it in the usual place, and it
    neither overflows on this CPU, which would cost a long search, nor is slow on it."""
    if saturates_int8(observe_machine().cpu_features):
        return False
    try:
        find_calibration(None, None)
    except UsageError:
        return False
    return True
