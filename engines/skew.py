"""The skew gate: does a live ensemble see and decide what the trained networks do, step by step, label for label?

A server tells the names and the wiring of its steps, and which files they run is but its word: a step may have been
changed together with its hashes. So every step gets the reference's own tensors on the same slices, and the ensemble
the slices themselves.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ..model.card import Card
from ..model.errors import CoronanetError, RefusedError
from ..model.tasks import ENSEMBLE, TaskName
from .base import Engine, Tensors
from .bundle import Bundle, Evidence, Graph, Precision, Verdict
from .parity import TOLERANCES, Answer, Found, Reference, compare, hold
from .predictor import Choice, Predictor, reference_of
from .retry import Retry
from .samples import Sample
from .slices import GateSlices
from .triton_connection import Connection
from .triton_engine import TIMEOUT_S, TritonEngine
from .triton_wire import ServedStep, UnansweredError

GRAPHS: tuple[Graph, ...] = ("preprocess", "network", "decide")
#: What the bundle's own graphs run on where they are held against torch.
BUNDLE = Choice("onnxruntime", "fp32")
CONCURRENCY = 4

#: Told what is compared next.
Progress = Callable[[str], object]


@dataclass(frozen=True)
class Held:
    """One thing that was held against the reference.

    Attributes:
        task: whose reference and slices.
        what: ``bundle``, a step (``preprocess``, ``network``, ``decide``), or ``ensemble``.
        model: the Triton model, or what ran the bundle.
        evidence: figures and verdict; ``not_run`` with its reason where there was nothing to compare.
    """

    task: TaskName
    what: str
    model: str
    evidence: Evidence

    @property
    def refusal(self) -> str:
        """Why it is refused, in a line that names the step; empty where it is not."""
        if self.evidence.verdict != "refused":
            return ""
        subject = f"the step {self.what} (model {self.model})" if self.what in GRAPHS else f"the {self.what}"
        return f"{self.task}: {subject} differs from {self.evidence.reference}: {self.evidence.reason}"


def hold_server(
    bundle: Bundle,
    slices: GateSlices,
    server: Connection,
    *,
    precision: Precision | None = None,
    timeout_s: float = TIMEOUT_S,
    progress: Progress = lambda _: None,
) -> tuple[Held, ...]:
    """Hold the bundle of a task, and the steps and the ensemble of a live server, against the task's reference.

    Args:
        bundle: its reference is torch where that is installed (``predictor.reference_of``).
        slices: what all of them see.
        precision: what the server's networks compute in; None allows as much as the bundle's loosest.
        timeout_s: deadline of every request, in seconds.

    Raises:
        UnansweredError: the server does not answer.
        UsageError: it has no model ``coronanet``.
    """
    task, output = bundle.card.task, bundle.card.spec.output
    allowed = precision or loosest(bundle)
    choice = reference_of(bundle)
    with ExitStack() as stack:
        ask = partial(TritonEngine, server, timeout_s=timeout_s, retry=Retry(), concurrency=CONCURRENCY)
        whole = stack.enter_context(ask())
        progress(f"{task}: {choice}")
        predictor = stack.enter_context(Predictor.open(bundle, choice))
        reference = Reference.of(predictor, bundle.card, off_grid(slices, bundle.card), name=str(choice))
        progress(f"{task}: bundle")
        held = [_hold_bundle(bundle, reference, choice)]
        if output not in {spec.name for spec in whole.outputs}:
            reason = f"the server's ensemble has no {output}"
            return (*held, Held(task, "ensemble", ENSEMBLE, _evidence(reference, "not_run", reason)))
        models = models_behind(whole.steps, output)
        for graph in GRAPHS:
            progress(f"{task}: {graph}")
            if graph in models:
                tolerance = allowed if graph == "network" else "fp32"
                step = partial(ask, model=models[graph])
                evidence = _hold_served(graph, step, predictor, reference, tolerance)
            else:
                evidence = _evidence(reference, "not_run", f"the server has no model of its own for the {graph}")
            held.append(Held(task, graph, models.get(graph, "-"), evidence))
        progress(f"{task}: ensemble")
        evidence = _hold_served(None, partial(ask, outputs=[output]), predictor, reference, allowed)
    return (*held, Held(task, "ensemble", ENSEMBLE, evidence))


def off_grid(slices: GateSlices, card: Card) -> GateSlices:
    """The slices, those on the network's own grid cut smaller: a wrong resize does nothing to them."""
    own = (card.geometry.height, card.geometry.width)
    samples = tuple(_cut(sample) if sample.image.shape == own else sample for sample in slices.samples)
    return replace(slices, samples=samples)


def _cut(sample: Sample) -> Sample:
    rows, columns = sample.image.shape
    part = np.s_[: rows - rows // 8, : columns - columns // 6]
    lung = None if sample.lung is None else sample.lung[part]
    return replace(sample, image=np.ascontiguousarray(sample.image[part]), labels=sample.labels[part], lung=lung)


def loosest(bundle: Bundle) -> Precision:
    """Of the precisions that a server may run a bundle's network in, the one with the widest tolerance."""
    files = bundle.manifest.files
    usable: set[Precision] = {"bf16"}  # OpenVINO's own way to compute the fp32 file
    usable |= {record.precision for record in files if record.precision is not None and not record.refusal}
    return max(usable, key=lambda name: (TOLERANCES[name].labels, TOLERANCES[name].probability))


def models_behind(steps: Sequence[ServedStep], output: str) -> dict[Graph, str]:
    """The models that make an output of an ensemble, as far as they are a chain of our three graphs."""
    writers = {tensor: step for step in steps for tensor in step.writes.values()}
    reads_of: dict[Graph, str] = {"decide": "logits", "network": "pixels", "preprocess": "image"}
    models: dict[Graph, str] = {}
    tensor = output
    for graph, reads in reads_of.items():
        step = writers.get(tensor)
        if step is None or reads not in step.reads:
            break
        models[graph] = step.model
        tensor = step.reads[reads]
    return models


def _hold_bundle(bundle: Bundle, reference: Reference, choice: Choice) -> Held:
    if choice == BUNDLE:
        reason = "there is no torch reference to hold it against: pip install 'coronanet[train]'"
        return Held(bundle.card.task, "bundle", str(BUNDLE), _evidence(reference, "not_run", reason))
    with Predictor.open(bundle, BUNDLE) as candidate:
        return Held(bundle.card.task, "bundle", str(BUNDLE), compare("network", reference, candidate).evidence)


def _hold_served(
    graph: Graph | None, ask: Callable[[], Engine], predictor: Predictor, reference: Reference, precision: Precision
) -> Evidence:
    """One served model under the reference's tensors; a graph of None is the whole ensemble."""
    try:
        with ask() as engine:
            return hold(graph, reference, _run(graph, engine, predictor, reference), precision).evidence
    except UnansweredError:
        raise
    except CoronanetError as error:
        # It takes, gives or says something else than the bundle's graph: that is a difference too.
        return _evidence(reference, "refused", str(error))


def _run(graph: Graph | None, engine: Engine, predictor: Predictor, reference: Reference) -> Iterator[Found]:
    names, outputs = [spec.name for spec in engine.inputs], [spec.name for spec in engine.outputs]
    if len(outputs) != 1:
        raise RefusedError(f"expected one output, got {', '.join(outputs) or 'none'}")
    given = engine.infer_each(_feeds(names, answer) for answer in reference.answers)
    for answer, tensors in zip(reference.answers, given, strict=True):
        (found,) = tensors.values()
        match graph:
            case "preprocess":
                yield found, answer.pixels, answer.decision
            case "network":
                yield found, answer.logits, predictor.decision(found, answer.image)
            case "decide" | None:
                yield found, answer.decision, found


def _feeds(names: Sequence[str], answer: Answer) -> Tensors:
    tensors = {"image": answer.image, "pixels": answer.pixels, "logits": answer.logits}
    return {name: tensors[name] for name in names if name in tensors}


def _evidence(reference: Reference, verdict: Verdict, reason: str) -> Evidence:
    """A verdict with no figures."""
    return Evidence(
        reference=reference.name,
        images=reference.slices.name,
        images_sha256=reference.slices.sha256,
        slices=len(reference.answers),
        max_difference=None,
        mean_difference=None,
        label_agreement=None,
        metric={},
        verdict=verdict,
        reason=reason,
    )
