"""An int8 network that passes its gates: separated, calibrated, quantized, and no more kept in float32 than needed."""

import hashlib
import tempfile
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from ..engines.bundle import Bundle, CalibrationMethod, Quantizer, hash_file
from ..engines.machine import observe_machine, saturates_int8
from ..engines.open import Backend, is_installed
from ..engines.parity import TOLERANCES, Reference
from ..engines.places import cache_home
from ..engines.predictor import Choice, Predictor
from ..engines.ranking import Ranked, examine
from ..engines.slices import GateSlices
from ..model.errors import RefusedError
from .calibrate import OPERATORS, calibrate
from .mixed_precision import Trials, find_kept
from .modelopt import check_modelopt, quantize_with_modelopt
from .quantize import quantizable, quantize, quantized_nodes
from .separate import separate_concatenations
from .switchboard import Switchboard
from .to_onnx import save_onnx

#: Slices on which the sensitivity of each node is measured.
PROBES = 2
#: Who runs an int8 file on this CPU. Each has kernels of its own, OpenVINO also fuses and moves, so each is asked.
CPU_BACKENDS: tuple[Backend, ...] = ("openvino", "onnxruntime")

Progress = Callable[[str], None]
#: The bundle in the making, with the int8 file that was just written.
Draft = Callable[[], Bundle]


def write_int8(
    target: Path,
    draft: Draft,
    reference: Reference,
    calibration: GateSlices,
    method: CalibrationMethod,
    *,
    quantizer: Quantizer,
    margin: float,
    progress: Progress,
) -> tuple[str, ...]:
    """Write the int8 network of a bundle in the making, and return the names of the nodes that stay in float32.

    It must pass parity and non-inferiority on every backend that can run it here.

    Args:
        target: where it goes, in the bundle's folder, beside ``network.fp32.onnx``.
        draft: opens the bundle as it stands.
        calibration: training slices.
        quantizer: who puts the pairs in, from its own ranges.
        margin: how much Dice or AUC may be lost.

    Raises:
        RefusedError: no choice of nodes passes; the gate's reason is in it.
    """
    bundle = draft()
    with Predictor.open(bundle, Choice()) as single, tempfile.TemporaryDirectory() as folder:
        separated = Path(folder) / "separated.onnx"
        network = separate_concatenations(onnx.load_model(bundle.file(bundle.require("network"))))
        save_onnx(network, separated)
        pixels = [single.preprocess.infer({"image": image[None]})["pixels"] for image in calibration.images]
        convert = _converter(
            separated,
            target,
            pixels,
            method,
            quantizer=quantizer,
            progress=lambda done: progress(f"ranges of {done} of {len(pixels)} training slices, {method}"),
        )
        every = _operators(network)
        able = quantizable(network)

        def write(kept: Collection[str]) -> str:
            """Write the file, and try it on the backends that can run it here."""
            convert(kept)
            progress(f"int8 with {len(kept)} of {len(able)} nodes in float32" if kept else "int8")
            return _refusal(draft(), reference, margin)

        kept: tuple[str, ...] = ()
        if write(kept):
            convert(())
            board = Switchboard(
                network, onnx.load_model(target), single.network.inputs, single.network.outputs, single.max_batch
            )
            switched = Predictor(single.preprocess, board, single.decide)

            def attempt(kept: Collection[str]) -> str:
                board.kept = kept
                progress(f"int8: trying {len(kept)} of {len(able)} nodes in float32")
                return _why(examine(Choice("onnxruntime", "int8"), reference, switched, margin=margin))

            order = _by_sensitivity(board, reference, progress)
            trials = Trials(_log_path(target, reference, margin), attempt)
            kept = find_kept(order, trials.reason)
            # A backend can round otherwise than the graph says; then the next in the order are kept too.
            kept = find_kept([*kept, *(name for name in order if name not in kept)], write) if write(kept) else kept
            write(kept)
        # As written: ModelOpt has rules of its own for what is not worth int8.
        quantized = quantized_nodes(onnx.load_model(target))
    return tuple(name for name in every if name not in quantized)


def _converter(
    network: Path,
    target: Path,
    pixels: list[NDArray[np.float32]],
    method: CalibrationMethod,
    *,
    quantizer: Quantizer,
    progress: Callable[[int], None],
) -> Callable[[Collection[str]], None]:
    """What writes the int8 form of ``network`` to ``target``, with the nodes that it is given kept in float32."""
    if quantizer == "modelopt":
        check_modelopt(method)
        return lambda kept: quantize_with_modelopt(network, target, pixels, method, kept=kept)
    ranges = calibrate(network, pixels, method, progress=progress)
    seven_bits = saturates_int8(observe_machine().cpu_features)
    return lambda kept: quantize(network, target, ranges, kept=kept, seven_bits=seven_bits)


def _refusal(bundle: Bundle, reference: Reference, margin: float) -> str:
    """Why a backend of this machine would be refused with the int8 file as it stands; an empty text where none is.

    What a backend cannot run it does not refuse: the ranking of the bundle says so of it, with the reason.
    """
    ran = False
    for choice in (Choice(backend, "int8") for backend in CPU_BACKENDS if is_installed(backend)):
        # A runtime that fails raises what it likes.
        with suppress(Exception), Predictor.open(bundle, choice) as predictor:
            try:
                why = _why(examine(choice, reference, predictor, margin=margin))
            except RefusedError as error:
                why = str(error)
            if why:
                return f"{choice}: {why}"
            ran = True
    return "" if ran else "no backend of this machine runs it"


def _why(way: Ranked) -> str:
    """Why a way is refused; where nothing tells the truth, nothing is."""
    return way.reason if way.verdict == "refused" else ""


def _by_sensitivity(board: Switchboard, reference: Reference, progress: Progress) -> list[str]:
    """The nodes that can be int8, by how far the logits move when that node alone is; the farthest first."""
    probes = reference.answers[:: max(1, len(reference.answers) // PROBES)][:PROBES]
    moved: dict[str, float] = {}
    for number, name in enumerate(board.nodes):
        progress(f"int8: what node {number + 1} of {len(board.nodes)} alone does to the answer")
        board.kept = [other for other in board.nodes if other != name]
        moved[name] = float(np.mean([_distance(board, answer.pixels, answer.logits) for answer in probes]))
    return sorted(moved, key=lambda name: -moved[name])


def _distance(board: Switchboard, pixels: NDArray[np.float32], logits: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean((board.infer({"pixels": pixels})["logits"] - logits) ** 2)))


def _operators(network: onnx.ModelProto) -> tuple[str, ...]:
    return tuple(node.name for node in network.graph.node if node.op_type in OPERATORS)


def _log_path(quantized: Path, reference: Reference, margin: float) -> Path:
    """Where the trials are kept: under everything that a verdict depends on, the fully quantized network first."""
    digest = hashlib.sha256(f"{hash_file(quantized)} {margin} {TOLERANCES} {onnxruntime.__version__}".encode())
    digest.update(reference.card.to_json().encode())
    digest.update(reference.slices.sha256.encode())
    for sample in reference.slices.samples:
        digest.update(sample.labels.tobytes())
        digest.update(b"" if sample.lung is None else sample.lung.tobytes())
    return cache_home() / "searches" / f"{digest.hexdigest()[:24]}.json"
