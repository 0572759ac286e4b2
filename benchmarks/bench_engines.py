"""`bench engines`: every network on every backend, in every precision and batch size, measured against each other."""

import importlib.util
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from statistics import median

import numpy as np
from numpy.typing import NDArray

from ..engines.base import Engine, Tensors
from ..engines.bundle import Bundle
from ..engines.cuda_engine import CudaEngine
from ..engines.load_errors import first_line
from ..engines.nvidia import cuda_pci_id
from ..engines.open import Backend, is_installed, open_engine
from ..engines.ranking import Ranking
from ..model.errors import UsageError
from ..model.tasks import TaskName
from .engine_results import case_of, engine_result, peer_result
from .fresh import METHOD as FRESH_METHOD
from .fresh import measure_fresh
from .gpu import Staged, measure_load, measure_stages
from .inputs import batch_of, describe
from .memory import Growth, available_bytes
from .nvml import open_gpu, why_no_nvml
from .peers import Peer
from .protocol import Method, PeerCase, Protocol, observe
from .report import Ceilings, EngineReport, EngineResult, Fresh, PeerResult, Skipped, Yardstick
from .timing import NS_PER_MS, Call, Plan, Rounds, WarmUp, WarmUpRule, interleave, warm_up
from .trtexec import TRTEXEC, run_trtexec
from .ways import Way, open_way
from .yardstick import DESCRIPTION, NAME, make_yardstick

Opener = Callable[[Bundle, Way], Engine]
#: Characters of a reason that are kept.
LONGEST = 300
#: Batch sizes that are tried where none is named, as far as graph and memory go.
DOUBLINGS = tuple(2**power for power in range(11))


class NothingMeasuredError(UsageError):
    """Of all that was asked for nothing could be measured; the message has the reasons."""


@dataclass(frozen=True)
class Extras:
    """What is measured beside the calls.

    Attributes:
        fresh: load time, first inference and peak memory, in processes of their own.
        roofline: the distance from what the layers must at least take.
        peers: who else is measured in the same turns.
    """

    fresh: bool = False
    roofline: bool = False
    peers: tuple[Peer, ...] = ()


@dataclass
class _Run:
    """A measurement under way: what every part of it needs, and what has come of it so far."""

    protocol: Protocol
    image: NDArray[np.int16]
    plan: Plan
    rule: WarmUpRule
    extras: Extras
    ceilings: dict[str, Ceilings]
    results: list[EngineResult] = field(default_factory=list[EngineResult])
    peers: list[PeerResult] = field(default_factory=list[PeerResult])
    yardsticks: list[Yardstick] = field(default_factory=list[Yardstick])
    skipped: list[Skipped] = field(default_factory=list[Skipped])

    def skip(self, what: object, reason: str) -> None:
        self.skipped.append(Skipped(what=str(what), reason=reason))

    def lose(self, what: object, error: Exception, bundle: Bundle | None = None) -> None:
        """Skip what raised; the reason names no folder of this machine, that of ``bundle`` least of all."""
        said = error if bundle is None else UsageError(hide_folder(bundle, error))
        self.skip(what, first_line(said)[:LONGEST])

    @contextmanager
    def skipping(self, what: object, bundle: Bundle | None = None) -> Generator[None]:
        """What fails in the block is skipped: a runtime raises what it likes, and the rest is measured all the same."""
        try:
            yield
        except Exception as error:
            self.lose(what, error, bundle)

    @property
    def report(self) -> EngineReport:
        """What has come of it so far."""
        return EngineReport(
            protocol=self.protocol,
            results=tuple(self.results),
            peers=tuple(self.peers),
            yardsticks=tuple(self.yardsticks),
            ceilings=tuple(self.ceilings.values()),
            skipped=tuple(self.skipped),
        )


def engine_protocol(
    image: NDArray[np.int16], plan: Plan, rule: WarmUpRule, bundles: Mapping[TaskName, Bundle], *, fresh: bool = False
) -> Protocol:
    """The protocol of a measurement of engines that is about to start."""
    return observe(_method(image, plan, rule, fresh=fresh), bundles)


def measure_engines(
    bundles: Mapping[TaskName, Bundle],
    ways: Sequence[Way],
    batches: Sequence[int] | None,
    image: NDArray[np.int16],
    *,
    plan: Plan,
    rule: WarmUpRule,
    extras: Extras | None = None,
    protocol: Protocol | None = None,
    rankings: Mapping[TaskName, Ranking] | None = None,
    opener: Opener = open_way,
    advance: Callable[[str], object] | None = None,
    keep: Callable[[EngineReport], object] | None = None,
) -> EngineReport:
    """Measure the network of every bundle in every way; what cannot run is skipped and listed with the reason.

    Args:
        batches: slices a call; None doubles from 1 for as long as a graph takes it and memory lasts.
        image: what the networks see, int16 HU ``[Z, H, W]``, through the bundle's own preprocessing.
        extras: what is measured beside the calls; nothing unless given.
        protocol: where it was observed already, with these arguments.
        rankings: what export found out about each network on this machine, for the report.
        opener: opens the network of a bundle; `open_way` unless a test plants another.
        advance: told what comes next before every group of candidates that are measured in turns.
        keep: given what there is after every group, so that a run that is broken off loses one group and no more.

    Raises:
        NothingMeasuredError: nothing at all could be.
    """
    extras = extras or Extras()
    run = _Run(
        protocol or engine_protocol(image, plan, rule, bundles, fresh=extras.fresh), image, plan, rule, extras, {}
    )
    tell = advance or (lambda _: None)
    if extras.roofline:
        tell("ceilings of this machine")
        _measure_ceilings(run, ways)
    for name, bundle in bundles.items():
        ranking = (rankings or {}).get(name)
        with ExitStack() as stack:
            opened = _open(run, bundle, ways, stack, opener)
            peers = _open_peers(run, bundle, stack)
            growth: dict[Way, Growth] = {}
            for batch in batches if batches is not None else _doublings(opened):
                tell(f"{name}, batch {batch}")
                with run.skipping(f"{name} batch {batch}", bundle):
                    _measure_group(run, bundle, batch, opened, peers=peers, growth=growth, ranking=ranking)
                if keep is not None and run.results:
                    rest = Skipped(what="the rest", reason="the measurement was broken off after this was written")
                    keep(run.report.model_copy(update={"skipped": (*run.skipped, rest)}))
    if not run.results:
        reasons = "; ".join(f"{item.what}: {item.reason}" for item in run.skipped)
        raise NothingMeasuredError(
            f"nothing to measure: {reasons or 'no such combination of backend and precision exists'}"
        )
    return run.report


def _measure_group(
    run: _Run,
    bundle: Bundle,
    batch: int,
    opened: Mapping[Way, Engine],
    *,
    peers: Mapping[Peer, Engine],
    growth: dict[Way, Growth],
    ranking: Ranking | None,
) -> None:
    """One network and batch in every way, in turns, and then what is measured of each way alone."""
    name = bundle.card.task
    fitting = _fitting(run, name, opened, batch)
    fresh = _measure_fresh(run, bundle, fitting, batch, growth) if run.extras.fresh else {}
    if run.extras.fresh:
        fitting = {way: engine for way, engine in fitting.items() if way in fresh}
    if not fitting:
        return
    feeds = feeds_of(bundle, batch_of(run.image, batch))
    beside = {peer: engine for peer, engine in peers.items() if engine.max_batch >= batch}
    calls: dict[Hashable, Call] = {key: engine_call(engine, feeds) for key, engine in (fitting | beside).items()}

    def what(key: object) -> str:
        return f"{name} {key} batch {batch}"

    warm: dict[Hashable, WarmUp] = {}
    for way in fitting:
        with run.skipping(what(way), bundle):
            warm[way] = warm_up(calls[way], run.rule)
    fitting = {way: engine for way, engine in fitting.items() if way in warm}
    if not fitting:
        return
    differences: dict[Peer, float] = {}
    with run.skipping(f"{name} peers batch {batch}", bundle):
        differences = _first_calls(run, bundle, beside, feeds, _reference(fitting))
    for peer in differences:
        with run.skipping(what(peer), bundle):
            warm[peer] = warm_up(calls[peer], run.rule)
    timed = {key: calls[key] for key in warm} | {NAME: make_yardstick()}
    taken = interleave(timed, run.plan, items=batch, lost=lambda key, error: run.lose(what(key), error, bundle))
    if NAME in taken:
        run.yardsticks.append(Yardstick(task=name, batch=batch, rounds_ns=taken[NAME].rounds_ns))
    # All that was timed is noted before anything more is asked of an engine, which may raise.
    first, first_peer = len(run.results), len(run.peers)
    for way in (way for way in fitting if way in taken):
        case = case_of(name, way, batch, fitting[way])
        result = engine_result(bundle, case, run.protocol, warm=warm[way], rounds=taken[way], ranking=ranking)
        run.results.append(result.model_copy(update={"fresh": fresh.get(way)}))
    for peer in (peer for peer in beside if peer in taken):
        case, difference = PeerCase(task=name, peer=peer.name, batch=batch, threads=None), differences[peer]
        run.peers.append(
            peer_result(case, run.protocol, peer, warm=warm[peer], rounds=taken[peer], difference=difference)
        )
    for place, way in enumerate((way for way in fitting if way in taken), first):
        _add_what_a_gpu_tells(run, place, bundle, fitting[way], feeds)
        _add_roofline(run, place, bundle, way)
    for place, engine in enumerate((engine for peer, engine in beside.items() if peer in taken), first_peer):
        if isinstance(engine, Staged):
            with run.skipping(f"{run.peers[place].case} stages", bundle):
                run.peers[place] = run.peers[place].model_copy(update={"stages": measure_stages(engine, feeds)})
    if run.extras.peers and any(way.on_gpu for way in fitting):
        _measure_trtexec(run, bundle, batch)


def engine_call(engine: Engine, feeds: Tensors) -> Call:
    """What the clock runs around."""
    return lambda: engine.infer(feeds)


def pixels_of(bundle: Bundle, image: NDArray[np.int16]) -> NDArray[np.float32]:
    """``image`` through the bundle's preprocessing, a slice at a time, so that its largest batch does not matter."""
    backend: Backend = "onnxruntime" if is_installed("onnxruntime") else "torch"
    with open_engine(bundle, graph="preprocess", backend=backend) as preprocess:
        parts = [preprocess.infer({"image": part[None]})["pixels"] for part in image]
    return np.ascontiguousarray(np.concatenate(parts))


def hide_folder(bundle: Bundle, error: Exception) -> str:
    """A reason for a report, which names no folder of this machine: neither the bundle's nor the one that holds it."""
    folder = bundle.path.parent
    return str(error).replace(str(bundle.path), bundle.path.name).replace(str(folder), folder.name)


def feeds_of(bundle: Bundle, image: NDArray[np.int16]) -> Tensors:
    return {bundle.require("network").inputs[0].name: pixels_of(bundle, image)}


def _open(run: _Run, bundle: Bundle, ways: Sequence[Way], stack: ExitStack, opener: Opener) -> dict[Way, Engine]:
    opened: dict[Way, Engine] = {}
    for way in ways:
        what = f"{bundle.card.task} {way}"
        if way.choice.backend == "torch" and way.choice.threads is not None:
            run.skip(what, "torch takes its threads from the process: leave --threads out")
            continue
        with run.skipping(what, bundle):
            opened[way] = stack.enter_context(opener(bundle, way))
    return opened


def _open_peers(run: _Run, bundle: Bundle, stack: ExitStack) -> dict[Peer, Engine]:
    opened: dict[Peer, Engine] = {}
    for peer in run.extras.peers:
        with run.skipping(f"{bundle.card.task} {peer}", bundle):
            opened[peer] = stack.enter_context(peer.open_engine(bundle))
    return opened


def _reference(opened: Mapping[Way, Engine]) -> Engine:
    """Torch where it is measured too, else whatever is."""
    return next(
        (engine for way, engine in opened.items() if way.choice.backend == "torch"), next(iter(opened.values()))
    )


def _first_calls(
    run: _Run, bundle: Bundle, peers: Mapping[Peer, Engine], feeds: Tensors, reference: Engine
) -> dict[Peer, float]:
    """The first call of every peer, which compiles where it must, and how far its logits are from the reference's."""
    found: dict[Peer, float] = {}
    if not peers:
        return found
    (truth,) = reference.infer(feeds).values()
    for peer, engine in peers.items():
        with run.skipping(f"{bundle.card.task} {peer} batch {len(truth)}", bundle):
            (answer,) = engine.infer(feeds).values()
            found[peer] = float(np.max(np.abs(answer - truth)))
    return found


def _measure_trtexec(run: _Run, bundle: Bundle, batch: int) -> None:
    name = bundle.card.task
    with run.skipping(f"{name} {TRTEXEC} batch {batch}", bundle):
        rounds, warm = Rounds((run_trtexec(bundle, batch),), batch), WarmUp((), stable=True)
        case = PeerCase(task=name, peer=TRTEXEC.name, batch=batch, threads=None)
        run.peers.append(peer_result(case, run.protocol, TRTEXEC, warm=warm, rounds=rounds, difference=None))


def _measure_fresh(
    run: _Run, bundle: Bundle, fitting: Mapping[Way, Engine], batch: int, growth: dict[Way, Growth]
) -> dict[Way, Fresh]:
    """Each way in a process of its own, unless memory would not last; a way that fails there is not measured here."""
    found: dict[Way, Fresh] = {}
    for way in fitting:
        what, known = f"{bundle.card.task} {way} batch {batch}", growth.setdefault(way, Growth())
        needed, free = known.predict(batch), available_bytes()
        if needed is not None and free is not None and needed > free:
            run.skip(what, f"it would take about {needed / 2**30:.1f} GiB of memory, {free / 2**30:.1f} GiB are free")
            continue
        with run.skipping(what, bundle):
            found[way] = measure_fresh(bundle, way, batch)
            known.add(batch, found[way].peak_bytes)
    return found


def _add_what_a_gpu_tells(run: _Run, place: int, bundle: Bundle, engine: Engine, feeds: Tensors) -> None:
    """Take a call of the result in that place apart, and watch the board under steady load; nothing on a CPU."""
    if not isinstance(engine, CudaEngine):
        return
    result = run.results[place]
    with run.skipping(f"{result.case} stages", bundle):
        run.results[place] = run.results[place].model_copy(update={"stages": measure_stages(engine, feeds)})
    with run.skipping(f"{result.case} power and clocks", bundle), open_gpu(cuda_pci_id()) as gpu:
        if gpu is None:
            raise UsageError(why_no_nvml() or "NVML does not show the GPU that CUDA runs on")
        load = measure_load(engine, feeds, result.case.batch, gpu)
        run.results[place] = run.results[place].model_copy(update={"gpu": load})


def _add_roofline(run: _Run, place: int, bundle: Bundle, way: Way) -> None:
    """Put the result in that place under the roof, where its ceilings were measured."""
    ceilings, result = run.ceilings.get("gpu" if way.on_gpu else "cpu"), run.results[place]
    if ceilings is None:
        return
    from .roofline import roofline

    with run.skipping(f"{result.case} roofline", bundle):
        found = roofline(bundle, way, result.case.batch, _kernels_ms(result), ceilings)
        run.results[place] = result.model_copy(update={"roofline": found})


def _kernels_ms(result: EngineResult) -> float:
    """The median of a call, of its kernels alone where it was taken apart."""
    return result.statistics.p50_ms if result.stages is None else median(result.stages.compute_ns) / NS_PER_MS


def _measure_ceilings(run: _Run, ways: Sequence[Way]) -> None:
    if importlib.util.find_spec("onnx") is None:
        run.skip("roofline", "onnx is not installed: pip install 'coronanet[cpu]'")
        return
    from .ceilings import measure_cpu_ceilings, measure_gpu_ceilings

    threads = next((way.choice.threads for way in ways), None)
    with run.skipping("roofline"):
        found = measure_cpu_ceilings(threads)
        if "fp32" not in found.flops_per_s:
            raise UsageError("neither onnxruntime nor openvino is installed: pip install 'coronanet[cpu]'")
        run.ceilings["cpu"] = found
    if any(way.on_gpu for way in ways):
        with run.skipping("roofline on the GPU"):
            run.ceilings["gpu"] = measure_gpu_ceilings()


def _doublings(opened: Mapping[Way, Engine]) -> Iterator[int]:
    largest = max((engine.max_batch for engine in opened.values()), default=0)
    return (batch for batch in DOUBLINGS if batch <= largest)


def _fitting(run: _Run, name: TaskName, opened: Mapping[Way, Engine], batch: int) -> dict[Way, Engine]:
    """The engines that take such a batch; the others are noted as skipped."""
    for way, engine in opened.items():
        if engine.max_batch < batch:
            run.skip(f"{name} {way} batch {batch}", f"the graph takes a batch of at most {engine.max_batch}")
    return {way: engine for way, engine in opened.items() if engine.max_batch >= batch}


def _method(image: NDArray[np.int16], plan: Plan, rule: WarmUpRule, *, fresh: bool) -> Method:
    return Method(
        verb="bench engines",
        measures="one synchronous infer() of the network alone: preprocessing and decision left out",
        transfers="arrays of this process in and out; copies to and from the engine counted",
        order="all ways to run a task and batch in turns, and a yardstick with them; in a turn one call that is not "
        f"counted, then a block that is. Yardstick: {DESCRIPTION}",
        input=describe(image, "through the bundle's own preprocessing"),
        warm_up=rule,
        plan=plan,
        fresh=FRESH_METHOD if fresh else None,
    )
