"""ONNX networks of a bundle to TensorRT plans, strongly typed: the file's own types are what is computed in."""

import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..console import warn
from ..engines.base import DYNAMIC
from ..engines.bundle import Bundle, Evidence, FileRecord, Gate, PlanTarget, hash_file
from ..engines.places import cache_home
from ..engines.plans import built_here, plan_name, plans_of
from ..engines.tensorrt_errors import NodeError, failure, parse_failure
from ..engines.tensorrt_runtime import TensorRT, load_runtime
from ..model.errors import UsageError
from .tensorrt_census import Census, judge, judge_engine, take_census

Progress = Callable[[str], None]
#: The oldest that TensorRT's parser promises to read.
LEAST_OPSET = 7
NOT_RUN = Evidence(
    reference="torch fp32",
    images="none",
    images_sha256="",
    slices=0,
    max_difference=None,
    mean_difference=None,
    label_agreement=None,
    metric={},
    verdict="not_run",
    reason="the plan was built without running it",
)


def build_plan(
    work: Path,
    record: FileRecord,
    target: PlanTarget,
    *,
    workspace_bytes: int | None = None,
    progress: Progress = lambda _: None,
) -> FileRecord:
    """Build the plan of an ONNX network of a bundle that is being written, below ``plans/`` in its folder.

    Args:
        work: the bundle's folder.
        record: the ONNX network. The nodes of its passed gates may stay in a higher precision.
        target: of ``plan_target.plan_target``.
        workspace_bytes: the most GPU memory that one kernel may use for itself; None leaves it to TensorRT.
        progress: told the phase and step of the build. An exception in it, such as Ctrl-C, ends the build.

    Returns:
        The plan's record: parity not run, and the precision gate's verdict, as built where a GPU is and else as parsed.

    Raises:
        RefusedError: TensorRT does not take the network; the message names the nodes.
        UsageError: an axis other than the batch has no fixed size, the opset is too old, or the build failed.
    """
    assert record.precision is not None
    _check_record(record)
    runtime = load_runtime(target.runtime)
    runtime.messages.clear()
    builder = runtime.api.Builder(runtime.log)
    network = runtime.create_network(builder)
    # The network's weights are the parser's memory: it must live as long.
    parser = runtime.api.OnnxParser(network, runtime.log)
    if not parser.parse_from_file(str(work / record.path)):
        raise parse_failure(work / record.path, [_node_error(parser.get_error(i)) for i in range(parser.num_errors)])
    census = take_census(network)
    config = builder.create_builder_config()
    runtime.apply_target(config, target)
    # On by default, it would round the factors of a float32 convolution to ten bits.
    config.clear_flag(runtime.api.BuilderFlag.TF32)
    config.profiling_verbosity = runtime.api.ProfilingVerbosity.DETAILED
    if workspace_bytes is not None:
        config.set_memory_pool_limit(runtime.api.MemoryPoolType.WORKSPACE, workspace_bytes)
    config.add_optimization_profile(_profile(builder, record))
    monitor = _make_monitor(runtime, progress)
    config.progress_monitor = monitor
    cache = _open_timing_cache(runtime, config, target)
    plan = builder.build_serialized_network(network, config)
    if monitor.stopped is not None:
        raise monitor.stopped
    path = work / plan_name(target, record.precision)
    if plan is None:
        raise failure(f"cannot build {path.name} from {record.path}", list(runtime.messages))
    _write(path, memoryview(plan))
    built_here.add(hash_file(path))
    if cache is not None:
        _write(cache, memoryview(config.get_timing_cache().serialize()))
    return record.model_copy(
        update={
            "path": str(path.relative_to(work)),
            "sha256": hash_file(path),
            "bytes": path.stat().st_size,
            "kind": "plan",
            "evidence": NOT_RUN,
            "gates": (_precision_gate(runtime, census, path, record, target),),
            "target": target.model_copy(update={"onnx_sha256": record.sha256}),
        }
    )


def carry_plans(
    previous: Bundle, bundle: Bundle, networks: tuple[FileRecord, ...], *, margin: float
) -> tuple[FileRecord, ...]:
    """Copy the plans of a bundle that is being exported again, where they were built from the same ONNX file for the
    same batches.

    So a set grows: each machine with a GPU exports once and adds its own. Plans that are there already stay.

    Args:
        previous: the bundle that is replaced.
        bundle: the bundle in the making.
        networks: its networks.
        margin: how much Dice or AUC a reduced precision may lose in it.

    Returns:
        The records of the plans, with their verdicts where card and margin are what they were judged by.
    """
    batches = {record.sha256: record.batch for record in networks}
    carried: list[FileRecord] = []
    for record in plans_of(previous.manifest):
        source = record.target.onnx_sha256 if record.target is not None else None
        if source not in batches or batches[source] != record.batch or (bundle.path / record.path).exists():
            continue
        _write(bundle.path / record.path, memoryview(previous.file(record).read_bytes()))
        margins = {gate.figures.get("margin", margin) for gate in record.gates}
        carried.append(record if previous.card == bundle.card and margins <= {margin} else _not_run(record))
    return tuple(carried)


def _not_run(record: FileRecord) -> FileRecord:
    """A plan without what ran it found: its precision is as it was built, whatever it is judged by."""
    evidence = NOT_RUN.model_copy(update={"reason": "card or margin are not those that the plan was judged by"})
    gates = tuple(gate for gate in record.gates if gate.gate != "non_inferiority")
    return record.model_copy(update={"evidence": evidence, "gates": gates})


def _check_record(record: FileRecord) -> None:
    if record.opset is not None and record.opset < LEAST_OPSET:
        raise UsageError(
            f"{record.path} is of opset {record.opset}, expected {LEAST_OPSET} or newer: "
            f"export it again with `coronanet export`",
            page="opset",
        )
    for tensor in record.inputs:
        if DYNAMIC in tensor.shape[1:]:
            raise UsageError(
                f"{record.path}: {tensor.spec} has an axis of any size besides the batch, and no optimisation profile "
                f"for it: fix its size in the network",
                page="no-profile",
            )


def _node_error(error: Any) -> NodeError:
    return NodeError(error.node_name(), error.node_operator(), error.code().name, error.desc())


def _profile(builder: Any, record: FileRecord) -> Any:
    """The batch range of the manifest, for every input."""
    profile = builder.create_optimization_profile()
    for tensor in record.inputs if record.batch else ():
        assert record.batch is not None
        sizes = (record.batch.min, record.batch.opt, record.batch.max)
        profile.set_shape(tensor.name, *((size, *tensor.shape[1:]) for size in sizes))
    return profile


def _make_monitor(runtime: TensorRT, progress: Progress) -> Any:
    class Monitor(runtime.api.IProgressMonitor):
        """Tells ``progress``; an exception must not pass through TensorRT, so it is kept and the build told to stop."""

        def __init__(self) -> None:
            runtime.api.IProgressMonitor.__init__(self)
            self.stopped: BaseException | None = None
            self.steps: dict[str, int] = {}

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            del parent
            self.steps[name] = steps

        def phase_finish(self, name: str) -> None:
            self.steps.pop(name, None)

        def step_complete(self, name: str, step: int) -> bool:
            try:
                progress(f"{name} {step + 1}/{self.steps.get(name, step + 1)}")
            except BaseException as error:
                self.stopped = self.stopped or error
            return self.stopped is None

    return Monitor()


def _open_timing_cache(runtime: TensorRT, config: Any, target: PlanTarget) -> Path | None:
    """Give a build what earlier ones measured on this GPU; returns where it is kept.

    What cannot be used is left out with a warning, and replaced by what this build measures.
    """
    if not runtime.has_timing_cache:
        return None
    gpu = re.sub(r"[^\w.-]+", "-", target.gpu or "unknown")
    path = cache_home() / "timing" / f"{runtime.name}-{runtime.version}-{gpu}.cache"
    # What TensorRT logs about a cache is no reason for a build that fails later.
    logged = list(runtime.messages)
    runtime.messages.clear()
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    if cache is None or not config.set_timing_cache(cache, False) or runtime.messages:
        warn(f"{path} cannot be used: kernels are timed anew, and it is replaced")
        config.set_timing_cache(config.create_timing_cache(b""), False)
    runtime.messages.clear()
    runtime.messages.extend(logged)
    return path


def _precision_gate(runtime: TensorRT, census: Census, path: Path, record: FileRecord, target: PlanTarget) -> Gate:
    assert record.precision is not None
    kept = {node for gate in record.gates if gate.verdict == "passed" for node in gate.nodes}
    gate = judge(census, record.precision, kept)
    if gate.verdict == "refused" or target.gpu is None or target.weight_stripped:
        return gate
    engine = runtime.api.Runtime(runtime.log).deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        return gate
    text = engine.create_engine_inspector().get_engine_information(runtime.api.LayerInformationFormat.JSON)
    built = judge_engine(census, text, record.precision, kept)
    return gate if built.verdict == "not_run" else built.model_copy(update={"figures": gate.figures | built.figures})


def _write(path: Path, content: memoryview) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(name).chmod(0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
