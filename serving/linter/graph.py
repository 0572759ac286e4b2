"""The graph of an ensemble: what flows from step to step, and what does not."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from .faults import Fault
from .models import Model
from .signatures import DYNAMIC, Tensor


@dataclass(frozen=True)
class End:
    """One end of a tensor of an ensemble: who writes or reads it, and as what; None where that is not known."""

    who: str
    tensor: Tensor | None


def check_graph(ensemble: Model, models: Mapping[str, Model]) -> Iterator[Fault]:
    """The faults of one ensemble."""
    steps = list(ensemble.config.ensemble_scheduling.step)
    if not steps:
        yield _fault(ensemble, "no-step", "it has no step", "add steps to ensemble_scheduling")
        return
    for index, step in enumerate(steps):
        yield from _check_step(ensemble, index, step, models)
    writers, readers = _ends(ensemble, steps, models)
    yield from _check_wiring(ensemble, writers, readers)
    yield from _check_types(ensemble, writers, readers)
    yield from _check_cycle(ensemble, steps)


def check_recursion(models: Mapping[str, Model]) -> Iterator[Fault]:
    """An ensemble that has itself among its steps, or among the steps of its ensembles."""
    for name, model in models.items():
        waiting, seen = list(_models_of(model)), set[str]()
        while waiting:
            each = waiting.pop()
            if each == name:
                yield _fault(model, "cycle", "it runs itself as a step", "take that step out")
                break
            if each in models and each not in seen:
                seen.add(each)
                waiting += _models_of(models[each])


def check_scheduling(models: Mapping[str, Model]) -> Iterator[Fault]:
    """What is allowed anywhere but makes an ensemble hang, crash or lie."""
    for ensemble in models.values():
        steps = list(ensemble.config.ensemble_scheduling.step) if ensemble.is_ensemble else []
        inputs = {tensor.name for tensor in ensemble.config.input}
        first = {step.model_name for step in steps if set(step.input_map.values()) <= inputs}
        firsts = sum(set(step.input_map.values()) <= inputs for step in steps)
        for name in dict.fromkeys(step.model_name for step in steps):
            model = models.get(name)
            if model is None or not _limits_queue(model) or (name in first and firsts == 1):
                continue
            why = (
                f"is one of {firsts} first steps of {ensemble.name}, where a rejected request ended Triton 24.10"
                if name in first
                else f"is not the first step of {ensemble.name}, where a rejected request hangs until Triton 26.03"
            )
            yield _fault(
                model,
                "queue-limit",
                f"it limits its queue (max_queue_size) and {why}",
                "limit the queue of the only first step, and give the others default_timeout_microseconds",
            )
    for model in models.values():
        outputs = len(model.outputs or {})
        if model.config.response_cache.enable and outputs > 1:
            yield _fault(
                model,
                "cache-outputs",
                f"response_cache with {outputs} outputs: its key leaves out which of them a request asks for, so the "
                "next one gets the outputs of the first",
                "cache models that have one output, such as its steps",
            )


def _check_step(ensemble: Model, index: int, step: Any, models: Mapping[str, Model]) -> Iterator[Fault]:
    label = f"step {index + 1} ({step.model_name})"
    model = models.get(step.model_name)
    if model is None:
        close = get_close_matches(step.model_name, models, n=1)
        yield _fault(
            ensemble,
            "missing-model",
            f'step {index + 1} runs "{step.model_name}", which the repository does not have',
            f'write model_name: "{close[0]}"' if close else f"add the model {step.model_name}, or take the step out",
        )
        return
    if step.model_version != -1 and step.model_version not in model.served:
        served = ", ".join(map(str, model.served)) or "none"
        yield _fault(
            ensemble,
            "step-version",
            f"{label} asks for version {step.model_version}, served: {served}",
            "write model_version: -1, or serve that version",
        )
    if model.max_batch is not None and (ensemble.max_batch or 0) > model.max_batch:
        yield _fault(
            ensemble,
            "batch",
            f"it batches up to {ensemble.max_batch}, {label} up to {model.max_batch}",
            f"write max_batch_size: {model.max_batch}, or raise that of {model.name}",
        )
    sides = (("input", step.input_map, model.inputs), ("output", step.output_map, model.outputs))
    for side, mapped, known in sides:
        if known is None:
            continue
        for name in sorted(mapped.keys() - known.keys()):
            close = get_close_matches(name, known.keys() - mapped.keys(), n=1, cutoff=0.3)
            yield _fault(
                ensemble,
                f"unknown-{side}",
                f'{label} maps the {side} "{name}", {model.name} has {", ".join(known) or "none"}',
                f'write key: "{close[0]}"' if close else "take it out of the map",
            )
    if model.inputs is not None:
        for name in sorted(model.inputs.keys() - step.input_map.keys() - model.optional):
            yield _fault(
                ensemble,
                "unmapped-input",
                f'{label} does not map the input "{name}" of {model.name}',
                f'add input_map {{ key: "{name}" value: "…" }}',
            )
    if not step.output_map:
        yield _fault(ensemble, "unused-output", f"{label} maps no output", "map one, or take the step out")


def _ends(
    ensemble: Model, steps: list[Any], models: Mapping[str, Model]
) -> tuple[dict[str, list[End]], dict[str, list[End]]]:
    """Who writes and who reads each tensor of an ensemble, its own inputs and outputs among them."""
    writers: dict[str, list[End]] = {}
    readers: dict[str, list[End]] = {}
    for name, tensor in (ensemble.inputs or {}).items():
        writers.setdefault(name, []).append(End("the ensemble's input", tensor))
    for index, step in enumerate(steps):
        model = models.get(step.model_name)
        label = f"step {index + 1} ({step.model_name})"
        for key, name in step.output_map.items():
            known = (model.outputs or {}).get(key) if model else None
            writers.setdefault(name, []).append(End(label, known))
        for key, name in step.input_map.items():
            known = (model.inputs or {}).get(key) if model else None
            readers.setdefault(name, []).append(End(label, known))
    for name, tensor in (ensemble.outputs or {}).items():
        readers.setdefault(name, []).append(End("the ensemble's output", tensor))
    return writers, readers


def _check_wiring(ensemble: Model, writers: dict[str, list[End]], readers: dict[str, list[End]]) -> Iterator[Fault]:
    for name, ends in writers.items():
        if len(ends) > 1:
            who = " and ".join(end.who for end in ends)
            yield _fault(
                ensemble, "two-writers", f'"{name}" is written by {who}', "give one of them another name in its map"
            )
        if name not in readers:
            is_input = name in (ensemble.inputs or {})
            yield _fault(
                ensemble,
                "unused-input" if is_input else "unused-output",
                f'nothing reads "{name}", which is {"its input" if is_input else f"written by {ends[0].who}"}',
                f"map it to a step, add it to the outputs, or take it out{_close(name, readers, writers)}",
            )
    for name, ends in readers.items():
        if name not in writers:
            yield _fault(
                ensemble,
                "unwritten-tensor",
                f'nothing writes "{name}", which {ends[0].who} {"is" if "output" in ends[0].who else "reads"}',
                f"map an output of a step to it, or add it to the inputs{_close(name, writers, readers)}",
            )


def _check_types(ensemble: Model, writers: dict[str, list[End]], readers: dict[str, list[End]]) -> Iterator[Fault]:
    for name in writers.keys() & readers.keys():
        source = writers[name][0]
        for end in readers[name]:
            if source.tensor is None or end.tensor is None:
                continue
            written, read = source.tensor, end.tensor
            if written.dtype != read.dtype:
                yield _fault(
                    ensemble,
                    "step-dtype",
                    f'"{name}" is {written.dtype} from {source.who}, but {read.dtype} for {end.who}',
                    "make both the same, or put a step between that converts it",
                )
            elif not _fits(written.shape, read.shape):
                yield _fault(
                    ensemble,
                    "step-dims",
                    f'"{name}" is {written} from {source.who}, but {read} for {end.who}',
                    "make both the same, or put a step between that reshapes it",
                )


def _check_cycle(ensemble: Model, steps: list[Any]) -> Iterator[Fault]:
    """What is left when every step whose inputs are there has run, though something writes all that it reads."""
    written = {name for step in steps for name in step.output_map.values()}
    known = {name for step in steps for name in step.input_map.values()} - written
    waiting = dict(enumerate(steps))
    while ready := [index for index, step in waiting.items() if set(step.input_map.values()) <= known]:
        for index in ready:
            known |= set(waiting.pop(index).output_map.values())
    # Steps behind a cycle wait too; those on it are also waited for.
    while ends := [
        index
        for index, step in waiting.items()
        if not any(set(step.output_map.values()) & set(other.input_map.values()) for other in waiting.values())
    ]:
        for index in ends:
            del waiting[index]
    if waiting:
        who = ", ".join(f"{index + 1} ({step.model_name})" for index, step in waiting.items())
        yield _fault(
            ensemble, "cycle", f"the steps {who} wait for each other", "let one of them read what is there before"
        )


def _fits(written: tuple[int, ...] | None, read: tuple[int, ...] | None) -> bool:
    if written is None or read is None:
        return True
    return len(written) == len(read) and all(
        DYNAMIC in pair or pair[0] == pair[1] for pair in zip(written, read, strict=True)
    )


def _limits_queue(model: Model) -> bool:
    batching = model.config.dynamic_batching
    policies = [batching.default_queue_policy, *batching.priority_queue_policy.values()]
    return any(policy.max_queue_size > 0 for policy in policies)


def _models_of(model: Model) -> list[str]:
    return [step.model_name for step in model.config.ensemble_scheduling.step] if model.is_ensemble else []


def _close(name: str, candidates: Mapping[str, Any], taken: Mapping[str, Any]) -> str:
    close = get_close_matches(name, candidates.keys() - taken.keys(), n=1)
    return f' (is "{close[0]}" meant?)' if close else ""


def _fault(model: Model, rule: str, what: str, remedy: str) -> Fault:
    return Fault(rule, model.name, model.config_file, what, remedy)
