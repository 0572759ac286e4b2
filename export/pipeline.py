"""A card and its weights become a bundle: graphs, gates, manifest, and only then its name."""

from collections.abc import Callable
from pathlib import Path

from ..engines.bundle import CARD, MANIFEST, WEIGHTS, Bundle, FileRecord, Gate, Manifest, Precision, publish
from ..engines.plans import plans_of
from ..engines.ranking import Ranking, machine, measure, worth_it, write_ranking
from ..engines.signature import SIGNATURE
from ..engines.slices import GateSlices
from ..model.card import Card
from ..model.errors import CoronanetError, RefusedError, UsageError
from ..model.networks import build
from ..model.weights import load_network
from .gates import known_ways, prove, refer
from .making import Making
from .options import PLAIN, Wanted
from .plan_set import with_plans
from .rebuilds import with_rebuilds
from .sbom import add_sbom

Progress = Callable[[str], None]


def export_bundle(
    source: Path, out: Path, slices: GateSlices, wanted: Wanted = PLAIN, *, progress: Progress = lambda _: None
) -> Bundle:
    """Export ``source`` (``card.json`` and ``weights.safetensors``) to the bundle ``out/<task>``.

    How fast each way to run it is on this machine is measured too, and kept in the user's cache.

    Args:
        slices: what the gates look at.
        progress: told what is being done.

    Raises:
        UsageError: the card or the weights cannot be read, or what would be replaced is no bundle.
        RefusedError: a gate said no; nothing is published then.
    """
    card = Card.load(source / CARD)
    _check_place(out / card.task)
    network = load_network(card, source / WEIGHTS, wanted.builder or build)

    def say(what: str) -> None:
        progress(f"{card.task}: {what}")

    with publish(out / card.task) as work:
        making = Making(source, card, network, wanted, say)
        draft = making.write_graphs(work)
        say(f"the reference on {len(slices.samples)} slices")
        reference = refer(draft, slices)
        draft = making.write_reduced(work, reference)
        say("gates")
        manifest = prove(draft, reference, kept=making.kept, ranges=making.ranges, margin=wanted.margin)
        if wanted.optional:
            manifest = _leave_out_refused(manifest, work)
        _refuse_what_failed(manifest)
        if wanted.rebuilds > 1:
            manifest = with_rebuilds(draft.with_manifest(manifest), reference, making, wanted.rebuilds)
        previous = _previous(out / card.task, wanted)
        if wanted.targets or previous is not None:
            bundle = draft.with_manifest(manifest)
            manifest = with_plans(bundle, wanted.targets, previous, reference, margin=wanted.margin, progress=say)
            _refuse_what_failed(manifest)
        say("measuring this machine")
        bundle = draft.with_manifest(manifest)
        ways = measure(bundle, reference, margin=wanted.margin, known=known_ways(manifest))
        manifest = _with_worth(manifest, {p: worth_it(ways, p) for p in ("fp16", "int8")})
        text = add_sbom(manifest, card, work).to_json().encode()
        (work / MANIFEST).write_bytes(text)
        if wanted.signer is not None:
            (work / SIGNATURE).write_text(wanted.signer.sign(text).to_json(), encoding="utf-8")
    bundle = Bundle.open(out / card.task, builder=wanted.builder, key=wanted.signer.public if wanted.signer else None)
    write_ranking(Ranking(bundle_sha256=bundle.sha256, machine=machine(), real=slices.real, ways=ways))
    return bundle


def _check_place(path: Path) -> None:
    """Publishing replaces what has the bundle's name: that must be a bundle, or nothing."""
    if not path.exists() or (path / MANIFEST).is_file() or (path.is_dir() and not any(path.iterdir())):
        return
    raise UsageError(
        f"{path} is no bundle, and exporting would replace it: expected a folder with {MANIFEST}, an empty one, or "
        "none; choose another --out"
    )


def _previous(path: Path, wanted: Wanted) -> Bundle | None:
    """The bundle with plans that an export replaces; None where there is none, or none that is whole.

    Who signs vouches for every plan in the bundle, so of an earlier one only those that carry the same signature.
    """
    try:
        bundle = Bundle.open(path, key=wanted.signer.public if wanted.signer else None)
    except CoronanetError:
        return None
    return bundle if plans_of(bundle.manifest) else None


def _leave_out_refused(manifest: Manifest, work: Path) -> Manifest:
    left: list[FileRecord] = []
    for record in manifest.files:
        if record.precision in ("fp16", "int8") and record.refusal:
            (work / record.path).unlink()
        else:
            left.append(record)
    return manifest.model_copy(update={"files": tuple(left)})


def _refuse_what_failed(manifest: Manifest) -> None:
    for record in manifest.files:
        if why := record.refusal:
            raise RefusedError(f"{manifest.name}: {record.path} did not pass {why}", page="gate-refused")


def _with_worth(manifest: Manifest, worth: dict[Precision, Gate]) -> Manifest:
    files = tuple(
        record.model_copy(update={"gates": (*record.gates, worth[record.precision])})
        if record.kind == "onnx" and record.graph == "network" and record.precision in worth
        else record
        for record in manifest.files
    )
    return manifest.model_copy(update={"files": files})
