"""A TensorRT plan on the GPU."""

from pathlib import Path
from typing import Any

import numpy as np

from ..model.errors import RefusedError
from .base import TensorSpec
from .bundle import REMEDY, Bundle, FileRecord, PlanTarget, Precision
from .cuda_engine import CudaEngine, shape_of
from .cuda_memory import open_cuda
from .plans import built_here, choose_plan, find_hosts, require_plans
from .proofs import refuse_unproved
from .tensorrt_errors import failure, refusal
from .tensorrt_runtime import TensorRT, load_runtime


def open_tensorrt(
    bundle: Bundle, precision: Precision, *, unproved: bool = False, graphs: bool = True
) -> "TensorRtEngine":
    """The network of a bundle as the plan that was made for this machine.

    Args:
        unproved: whether to open a plan that has never run too, as `coronanet verify` must.
        graphs: whether to replay a CUDA graph for each batch size.

    Raises:
        UsageError: the bundle has no plan for this machine, or no GPU can be used.
        RefusedError: the plan has not been proved, cannot be loaded, or brings code that nobody vouches for.
    """
    require_plans(bundle, precision)
    record, host = choose_plan(bundle, precision, find_hosts())
    _refuse_foreign_code(bundle, record)
    if not unproved:
        refuse_unproved(bundle, record, host)
    assert record.target is not None
    weights = None
    if record.target.weight_stripped:
        source = bundle.require("network", precision)
        if source.sha256 != record.target.onnx_sha256:
            raise RefusedError(
                f"{bundle.file(record)} has no weights and was not built from {source.path}: export again"
            )
        weights = bundle.file(source)
    return TensorRtEngine(
        bundle.file(record),
        tuple(tensor.spec for tensor in record.inputs),
        tuple(tensor.spec for tensor in record.outputs),
        record.batch.max if record.batch else 1,
        target=record.target,
        weights=weights,
        graphs=graphs,
    )


def _refuse_foreign_code(bundle: Bundle, record: FileRecord) -> None:
    """A version-compatible plan carries a runtime, which loading it runs: only that of a trusted hand, or our own."""
    assert record.target is not None
    if record.target.version_compatible and not bundle.is_signature_checked and record.sha256 not in built_here:
        raise RefusedError(
            f"{bundle.file(record)} is version-compatible, so it brings code that would run here, and no signature was "
            "checked: export with --sign and name the public key (verify --key, predict and serve "
            "--require-signature), or export without --version-compatible"
        )


class TensorRtEngine(CudaEngine):
    """A plan with an execution context of its own.

    Args:
        path: the plan.
        target: what it was built for, and so which runtime loads it.
        weights: the ONNX file that a weight-stripped plan takes its weights from.
        graphs: whether copies and kernels of a batch size are captured on its first use and replayed afterwards.

    Raises:
        UsageError: no GPU, no memory, or the runtime is missing.
        RefusedError: the plan cannot be loaded here, or its tensors are not those of the manifest.
    """

    def __init__(
        self,
        path: Path,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        max_batch: int,
        *,
        target: PlanTarget,
        weights: Path | None = None,
        graphs: bool = True,
    ) -> None:
        self._runtime = load_runtime(target.runtime)
        super().__init__(open_cuda(), inputs, outputs, max_batch, graphs=graphs)
        try:
            self._engine = load_plan(self._runtime, path, target, weights)
            _check_tensors(self._runtime, self._engine, path, (*inputs, *outputs))
            self._context: Any = self._engine.create_execution_context()
            if self._context is None:
                raise failure(f"cannot run {path.name}", self._runtime.messages)
            self._allocate()
            for name, buffer in self._buffers.items():
                self._context.set_tensor_address(name, buffer.address)
        except BaseException:
            self._cuda.close()
            raise

    def close(self) -> None:
        self._context = self._engine = None
        super().close()

    def _compute(self, batch: int) -> None:
        for spec in self.inputs:
            self._context.set_input_shape(spec.name, shape_of(spec, batch))
        if not self._context.execute_async_v3(self._cuda.stream):
            raise failure(f"TensorRT cannot run this batch of {batch}", self._runtime.messages)

    def _can_capture(self) -> bool:
        return self._runtime.can_capture(self._context, self._cuda.stream)


def load_plan(runtime: TensorRT, path: Path, target: PlanTarget, weights: Path | None) -> Any:
    """A plan as an engine of its runtime; ``weights`` is the ONNX file of a weight-stripped one.

    Raises:
        RefusedError: it cannot be loaded here, with the library's reason.
    """
    runtime.messages.clear()
    loader = runtime.api.Runtime(runtime.log)
    if target.version_compatible:
        # Such a plan carries the code of the runtime that it was built with: ``open_tensorrt`` asked whose it is.
        loader.engine_host_code_allowed = True
    engine = loader.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise refusal(f"cannot load {path}", runtime.messages)
    if weights is not None:
        refitter = runtime.api.Refitter(engine, runtime.log)
        parser = runtime.api.OnnxParserRefitter(refitter, runtime.log)
        if not parser.refit_from_file(str(weights)) or not refitter.refit_cuda_engine():
            raise refusal(f"cannot give {path} the weights of {weights.name}", runtime.messages)
    return engine


def _check_tensors(runtime: TensorRT, engine: Any, path: Path, specs: tuple[TensorSpec, ...]) -> None:
    names = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
    if names != {spec.name for spec in specs}:
        raise RefusedError(
            f"{path} has the tensors {sorted(names)}, its manifest {[spec.name for spec in specs]}: {REMEDY}",
            page="corrupted-file",
        )
    for spec in specs:
        found = np.dtype(runtime.api.nptype(engine.get_tensor_dtype(spec.name)))
        if found != np.dtype(spec.dtype) or tuple(engine.get_tensor_shape(spec.name)) != spec.shape:
            shape = list(engine.get_tensor_shape(spec.name))
            raise RefusedError(f"{path}: expected {spec}, found {found} {shape}", page="corrupted-file")
