"""The card's own torch network on the GPU, rewritten for inference, in float32 or float16."""

from typing import Any, Literal

import torch
from torch import nn

from ..model.errors import UsageError
from ..model.networks import build
from ..model.weights import load_network
from .base import TensorSpec
from .bundle import WEIGHTS, Bundle, FileRecord
from .cuda_engine import CudaEngine, shape_of
from .cuda_memory import NoGpuError, no_gpu
from .cuda_torch import TorchCuda, memory_told
from .fused import rewrite

#: The weights are cast, and so are the pixels on the GPU; what goes in and comes out is float32 in either.
KINDS = {"fp32": torch.float32, "fp16": torch.float16}


class TorchCudaEngine(CudaEngine):
    """One torch module on the GPU.

    Args:
        module: on the CPU, in float32; it belongs to the engine afterwards.
        graphs: whether copies and kernels of a batch size are captured on its first use and replayed afterwards.

    Raises:
        UsageError: no GPU, or no memory on it.
    """

    def __init__(
        self,
        module: nn.Module,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        max_batch: int,
        *,
        precision: Literal["fp32", "fp16"],
        graphs: bool = True,
    ) -> None:
        try:
            cuda = TorchCuda()
        except NoGpuError as error:
            raise no_gpu([str(error)]) from None
        super().__init__(cuda, inputs, outputs, max_batch, graphs=graphs)
        self._torch = cuda
        self._kind = KINDS[precision]
        # Tensor cores want the channels last; float32 without TF32 does not use them.
        self._layout = torch.contiguous_format if precision == "fp32" else torch.channels_last
        with memory_told():
            on_gpu = rewrite(module, activations=precision == "fp16").to("cuda", self._kind)
            self._module = on_gpu.to(memory_format=self._layout)  # pyright: ignore[reportCallIssue]
            self._allocate()

    def close(self) -> None:
        del self._module
        super().close()

    def _compute(self, batch: int) -> None:
        pixels, logits = (self._tensor(spec, batch) for spec in (*self.inputs, *self.outputs))
        # fp32 means fp32: TF32 keeps 10 bits of the 23.
        exact: Any = torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False)
        with memory_told(), torch.inference_mode(), exact, self._torch.current():
            logits.copy_(self._module(pixels.to(self._kind, memory_format=self._layout)))

    def _tensor(self, spec: TensorSpec, batch: int) -> torch.Tensor:
        return self._torch.tensor(self._buffers[spec.name], getattr(torch, spec.dtype), shape_of(spec, batch))


def open_torch_cuda(
    bundle: Bundle, record: FileRecord, *, precision: Literal["fp32", "fp16"], graphs: bool
) -> TorchCudaEngine:
    """The network of a bundle; ``record`` gives its tensors.

    Raises:
        UsageError: no GPU, or the code of the network is not at hand.
    """
    if not bundle.has_code:
        raise UsageError(
            "torch_cuda runs a network's own code, and this one is the user's: give it with --network, "
            "or run the bundle on onnxruntime_cuda"
        )
    return TorchCudaEngine(
        load_network(bundle.card, bundle.path / WEIGHTS, bundle.builder or build),
        tuple(tensor.spec for tensor in record.inputs),
        tuple(tensor.spec for tensor in record.outputs),
        record.batch.max if record.batch else 1,
        precision=precision,
        graphs=graphs,
    )
