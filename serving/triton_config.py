"""The model repository as text: bundles in, one ``config.pbtxt`` a step and target out. Nothing is read or written.

Every configuration goes through Triton's own message types, so what is written is what Triton parses.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from google.protobuf import descriptor_pool, json_format, message_factory, text_format
from google.protobuf.message import Message
from tritonclient.grpc import model_config_pb2

from ..engines.base import DYNAMIC, TensorSpec
from ..engines.bundle import Bundle, FileRecord, Graph, TensorRecord
from ..engines.predictor import IMAGE, ensemble_output
from ..model.errors import UsageError
from ..model.tasks import ENSEMBLE, TASK_NAMES, TASKS, TRIAGE, TaskName
from .container_plans import container_plans, file_name

#: What Triton is started with: nothing (the embedded server), or ``--model-config-name`` in NVIDIA's container.
Target = Literal["embedded", "onnxruntime", "tensorrt"]
TARGETS: tuple[Target, ...] = get_args(Target)
GENERATED = "# Written by `coronanet repository` from the bundles' manifests: edits are lost.\n"

DEFAULT_INSTANCES = 2
QUEUE_TIMEOUT_US = 30_000_000
QUEUE_LENGTH = 256
#: A gated request waits in its process for the ensemble, so these bound how many are under way at once.
TRIAGE_INSTANCES = 4
#: What warm-ups have for a slice whose size is free.
WARM_UP_SIZE = 512
#: What Triton says is missing on a GPU that the bundle has no plan for.
NO_PLAN = "model.plan"
TYPES = {"int16": "TYPE_INT16", "float32": "TYPE_FP32", "uint8": "TYPE_UINT8"}

#: What the gate keeps from slices that are not called infected. Lungs are never gated: extent is in percent of them.
GATED: tuple[TaskName, ...] = ("binary_segmentation", "multiclass_segmentation")
#: The newest version alone, so that a new one beside it takes over and the old one can be put back by removing it.
NEWEST = {"latest": {"num_versions": 1}}

_CONFIG = message_factory.GetMessageClass(
    descriptor_pool.Default().FindMessageTypeByName(f"{model_config_pb2.DESCRIPTOR.package}.ModelConfig")
)


@dataclass(frozen=True)
class Step:
    """One model of the repository: a graph of a bundle.

    Attributes:
        name: the Triton model, also its folder.
        task: whose bundle the graph comes from; a shared ``preprocess`` takes it from the first that asks for it.
        graph: ``preprocess``, ``network`` or ``decide``.
        reads: the ensemble's tensor behind each input.
        writes: the ensemble's tensor behind each output.
    """

    name: str
    task: TaskName
    graph: Graph
    reads: Mapping[str, str]
    writes: Mapping[str, str]


def plan_steps(bundles: Mapping[TaskName, Bundle]) -> tuple[Step, ...]:
    """The steps of the ensemble in the order in which they run: preprocessing once a recipe, networks, decisions."""
    tasks: list[TaskName] = [task for task in TASK_NAMES if task in bundles]
    first_with: dict[str, TaskName] = {}
    for task in tasks:
        first_with.setdefault(bundles[task].card.recipe, task)
    suffix = {recipe: f"_{recipe}" if len(first_with) > 1 else "" for recipe in first_with}
    steps = [
        Step(
            f"preprocess{suffix[recipe]}", task, "preprocess", {"image": "image"}, {"pixels": f"pixels{suffix[recipe]}"}
        )
        for recipe, task in first_with.items()
    ]
    for task in tasks:
        pixels = f"pixels{suffix[bundles[task].card.recipe]}"
        steps.append(Step(task, task, "network", {"pixels": pixels}, {"logits": f"logits_{task}"}))
    for task in tasks:
        spec = bundles[task].card.spec
        sources = {"logits": f"logits_{task}", "image": "image"}
        reads = {tensor.name: sources[tensor.name] for tensor in bundles[task].require("decide").inputs}
        steps.append(Step(f"decide_{task}", task, "decide", reads, {spec.decision: spec.output}))
    return tuple(steps)


def render_configs(
    bundles: Mapping[TaskName, Bundle],
    *,
    instances: int = DEFAULT_INSTANCES,
    response_cache: bool = False,
    triage_threshold: float | None = None,
) -> dict[str, dict[Target, str]]:
    """The text of every configuration: model name -> target -> ``config.pbtxt``.

    Args:
        bundles: open bundles, at least one.
        instances: processes that the embedded server runs for each network.
        response_cache: whether what a network said about a slice is kept for the next request with the same slice.
        triage_threshold: adds the gated model, with this probability as its gate.

    Raises:
        UsageError: a bundle lacks one of the three graphs, or there is nothing to gate.
    """
    steps = plan_steps(bundles)
    limited = sum(step.graph == "preprocess" for step in steps) == 1
    configs: dict[str, dict[Target, str]] = {
        step.name: {
            target: _render(
                _step(
                    step,
                    bundles[step.task],
                    target,
                    instances=instances,
                    limited=limited,
                    response_cache=response_cache,
                )
            )
            for target in TARGETS
        }
        for step in steps
    }
    ensemble = _ensemble(steps, bundles)
    configs[ENSEMBLE] = dict.fromkeys(TARGETS, _render(ensemble))
    if triage_threshold is not None:
        configs[TRIAGE] = dict.fromkeys(TARGETS, _render(_triage(ensemble, bundles, triage_threshold)))
    return configs


def container_file(bundle: Bundle, graph: Graph) -> FileRecord:
    """The ONNX file that NVIDIA's container runs on its onnxruntime backend: fp16 where no gate refused it."""
    half = bundle.manifest.graph(graph, "fp16")
    if half is not None and not half.refusal:
        return half
    return bundle.require(graph)


def parse_config(text: str) -> Message:
    """The ``ModelConfig`` in a ``config.pbtxt``.

    Raises:
        google.protobuf.text_format.ParseError: the text is not one.
    """
    return text_format.Parse(text, _CONFIG())


def render_config(config: Message) -> str:
    """The text of a ``config.pbtxt``."""
    return GENERATED + text_format.MessageToString(config)


def _render(config: Mapping[str, Any]) -> str:
    return render_config(json_format.ParseDict(dict(config), _CONFIG()))


def _step(
    step: Step, bundle: Bundle, target: Target, *, instances: int, limited: bool, response_cache: bool
) -> dict[str, Any]:
    record = bundle.require(step.graph)
    largest = record.batch.max if record.batch else 1
    config: dict[str, Any] = {
        "name": step.name,
        **_backend(step, bundle, target),
        "max_batch_size": largest,
        "version_policy": NEWEST,
        "input": _tensors(tensor.spec for tensor in record.inputs),
        "output": _tensors(tensor.spec for tensor in record.outputs),
    }
    if response_cache and step.graph == "network":
        # Not the ensemble: the cache's key leaves out which outputs a request asks for. A network has but one.
        config["response_cache"] = {"enable": True}
    queue = _queue(limits=limited and step.graph == "preprocess")
    if target == "embedded":
        # Networks take nearly all of the time: more processes for the other steps would only cost memory.
        config["instance_group"] = [{"kind": "KIND_CPU", "count": instances if step.graph == "network" else 1}]
        config["dynamic_batching"] = _one_by_one(queue)
        batches = (1,)
    else:
        kind = "KIND_GPU" if step.graph == "network" else "KIND_CPU"
        config["instance_group"] = [{"kind": kind, "count": 1}]
        config["dynamic_batching"] = queue
        # A GPU makes its kernels ready for the sizes that it is shown.
        batches = (1, largest) if step.graph == "network" and largest > 1 else (1,)
    return {**config, "model_warmup": [_warm_up(record.inputs, batch) for batch in batches]}


def _warm_up(inputs: Iterable[TensorRecord], batch: int) -> dict[str, Any]:
    """A sample that every instance runs before the model is ready."""
    return {
        "name": f"batch-{batch}",
        "batch_size": batch,
        "inputs": {
            tensor.name: {
                "data_type": TYPES[tensor.dtype],
                "dims": [WARM_UP_SIZE if size == DYNAMIC else size for size in tensor.shape[1:]],
                "zero_data": True,
            }
            for tensor in inputs
        },
    }


def _backend(step: Step, bundle: Bundle, target: Target) -> dict[str, Any]:
    if target == "embedded":
        return {"backend": "python"}
    # TensorRT takes neither int16 nor uint8, so the two ends of the chain stay on ONNX Runtime.
    if target == "tensorrt" and step.graph == "network":
        plans = container_plans(bundle)
        config = {
            "platform": "tensorrt_plan",
            "backend": "tensorrt",
            "default_model_filename": file_name(plans.other) if plans.other else NO_PLAN,
        }
        chosen = {capability: file_name(record) for capability, record in plans.by_capability.items()}
        return {**config, "cc_model_filenames": chosen} if chosen else config
    return {"backend": "onnxruntime", "default_model_filename": container_file(bundle, step.graph).path}


def _queue(*, limits: bool) -> dict[str, Any]:
    """How requests wait: nobody longer than the timeout and, where it ``limits``, no more than so many.

    Behind an ensemble's first step a request that is rejected for want of room never gets an answer (fixed in Triton
    26.03), and at one of several first steps it ends the server (seen in 24.10): only a single first step may limit.
    """
    policy: dict[str, Any] = {"timeout_action": "REJECT", "default_timeout_microseconds": QUEUE_TIMEOUT_US}
    if limits:
        policy["max_queue_size"] = QUEUE_LENGTH
    return {"default_queue_policy": policy}


def _one_by_one(queue: dict[str, Any]) -> dict[str, Any]:
    """The queue of the embedded server: its timeouts, but no request waits there to be batched with the next one.

    A CPU gains nothing from batches of several requests, and with the plain batcher models in Python were slower than
    with none (seen in Triton 24.10; `docs/operations.md` has figures).
    """
    return {"preferred_batch_size": [1], **queue}


def _ensemble(steps: Sequence[Step], bundles: Mapping[TaskName, Bundle]) -> dict[str, Any]:
    records = [bundles[step.task].require(step.graph) for step in steps]
    return {
        "name": ENSEMBLE,
        "platform": "ensemble",
        "max_batch_size": min(record.batch.max if record.batch else 1 for record in records),
        "version_policy": NEWEST,
        "input": _tensors([IMAGE]),
        "output": _tensors(ensemble_output(step.task) for step in steps if step.graph == "decide"),
        "ensemble_scheduling": {
            "step": [
                {
                    "model_name": step.name,
                    "model_version": -1,
                    "input_map": dict(step.reads),
                    "output_map": dict(step.writes),
                }
                for step in steps
            ]
        },
    }


def _triage(ensemble: Mapping[str, Any], bundles: Mapping[TaskName, Bundle], threshold: float) -> dict[str, Any]:
    """The gated model: what the ensemble takes and gives, answered by the Python backend, which asks the ensemble."""
    gated = [TASKS[task].output for task in GATED if task in bundles]
    if "classification" not in bundles or not gated:
        raise UsageError(
            f"--triage needs a classification to gate with and a lesion segmentation to gate, got {', '.join(bundles)}"
        )
    parameters = {
        "ensemble": ENSEMBLE,
        "gate": TASKS["classification"].output,
        "gated": ",".join(gated),
        "threshold": repr(threshold),
    }
    return {
        "name": TRIAGE,
        "backend": "python",
        "max_batch_size": ensemble["max_batch_size"],
        "version_policy": NEWEST,
        "input": ensemble["input"],
        "output": ensemble["output"],
        "instance_group": [{"kind": "KIND_CPU", "count": TRIAGE_INSTANCES}],
        # Every request is a gate of its own, also in the container.
        "dynamic_batching": _one_by_one(_queue(limits=True)),
        "parameters": {name: {"string_value": value} for name, value in parameters.items()},
    }


def _tensors(specs: Iterable[TensorSpec]) -> list[dict[str, Any]]:
    """Triton's form of tensors; the batch axis is implied by ``max_batch_size``."""
    return [{"name": spec.name, "data_type": TYPES[spec.dtype], "dims": list(spec.shape[1:])} for spec in specs]
