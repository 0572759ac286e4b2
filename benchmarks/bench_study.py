"""`bench study`: a whole study from its files to its report, against the engine alone, in turns."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engines.base import Engine, Tensors
from ..engines.bundle import Bundle
from ..engines.predictor import Choice, Predictor
from ..engines.streams import open_ensemble, slices_a_call, streams_of
from ..model.errors import UsageError
from ..model.readers import Reading, Unreadable, open_inputs
from ..model.study import Study
from ..model.tasks import TaskName
from .protocol import InputRecord, Method, Protocol, observe
from .study_report import EngineBlock, StudyCase, StudyReport, StudyRun, summarise
from .timing import Plan, WarmUpRule, warm_up

#: Slices of the study that the engine alone sees, over and over: as many as are not worth the name of a study.
SAMPLE = 16
#: Slices that the engine alone gets at a time: enough for a rate, and not as long as a study.
MOST_IN_A_BLOCK = 64
#: Calls of each graph behind ``engine_parts_ms``.
PART_CALLS = 5

#: Nothing is cut short: a study is measured whole, as often as was asked for.
LIMIT_S = 86_400.0

Advance = Callable[[str], object]


def measure_study(
    path: Path,
    bundles: Mapping[TaskName, Bundle],
    choices: Mapping[TaskName, Choice],
    *,
    source: str,
    repeats: int,
    advance: Advance,
) -> StudyReport:
    """Measure the engine alone and the study in turns, each study in a process of its own.

    Args:
        path: what `coronanet predict` is given: exactly one study.
        bundles: as they lie in one folder.
        choices: what runs each network, as `coronanet predict` would choose on this machine.
        source: what the study is, in a few words that name no folder.
        repeats: runs of the study.
        advance: told what comes next.

    Raises:
        UsageError: the path is not one study, or it cannot be predicted.
    """
    rule = WarmUpRule()
    protocol = observe(_method(source, rule, repeats), bundles)
    advance("reading")
    study, size, read_s = _read(path)
    sample = study.image[np.linspace(0, len(study.image) - 1, SAMPLE).astype(int)]
    count, rows, columns = study.image.shape
    del study
    runs: list[StudyRun] = []
    advance("the parts of the engine")
    parts = _engine_parts(bundles, choices, sample[:1])
    with open_ensemble(bundles, choices) as engine:
        batch = min(engine.max_batch, slices_a_call(sample[0].nbytes))
        case = StudyCase(
            source=source,
            slices=count,
            rows=rows,
            columns=columns,
            batch=batch,
            streams=streams_of(choices),
            engines={name: str(choice) for name, choice in choices.items()},
        )
        warm_up(lambda: _block(engine, sample, case.streams * batch, batch), rule)
        advance("the engine alone")
        block = min(count, MOST_IN_A_BLOCK)
        blocks = [_block(engine, sample, block, batch)]
        for number in range(repeats):
            advance(f"study {number + 1} of {repeats}")
            run, digest = _run(path, next(iter(bundles.values())).path.parent)
            runs.append(run)
            blocks.append(_block(engine, sample, block, batch))
    protocol = _with_input(protocol, case, digest)
    return StudyReport(
        protocol=protocol,
        case=case,
        protocol_sha256=protocol.sha256(case),
        blocks=tuple(blocks),
        runs=tuple(runs),
        engine_parts_ms=parts,
        file_bytes=size,
        file_read_s=read_s,
        **summarise(case, tuple(blocks), tuple(runs)),
    )


def _read(path: Path) -> tuple[Study, int, float]:
    """The one study that lies at a path, how large its files are, and how long their bytes take once they are cached.

    Raises:
        UsageError: there is none, or more than one.
    """
    found = list(open_inputs([path], Reading()))
    if len(found) != 1:
        raise UsageError(f"{path} holds {len(found)} inputs: expected exactly one study to measure")
    (arriving,) = found
    if isinstance(arriving, Unreadable):
        raise UsageError(arriving.reason)
    study = arriving.complete()
    files = sorted(dict.fromkeys(file for file, _ in study.dicom.frames)) if study.dicom else [path]
    start = time.perf_counter()
    size = sum(len(file.read_bytes()) for file in files)
    return study, size, time.perf_counter() - start


def _block(engine: Engine, sample: NDArray[np.int16], count: int, batch: int) -> EngineBlock:
    def feeds() -> Iterator[Tensors]:
        for start in range(0, count, batch):
            places = np.arange(start, min(start + batch, count)) % len(sample)
            yield {"image": np.ascontiguousarray(sample[places])}

    start = time.perf_counter()
    answered = sum(len(answer["infected_probability"]) for answer in engine.infer_each(feeds()))
    return EngineBlock(slices=answered, wall_s=time.perf_counter() - start)


def _engine_parts(
    bundles: Mapping[TaskName, Bundle], choices: Mapping[TaskName, Choice], image: NDArray[np.int16]
) -> dict[str, float]:
    """Milliseconds of one slice alone on all cores: preprocessing (once a recipe), networks, decisions."""
    parts = {"preprocess": 0.0, "networks": 0.0, "decide": 0.0}
    recipes: set[str] = set()
    for name, bundle in bundles.items():
        with Predictor.open(bundle, choices[name]) as predictor:
            pixels = predictor.preprocess.infer({"image": image})
            logits = predictor.network.infer(pixels)["logits"]
            steps: dict[str, Callable[[], Any]] = {
                "networks": lambda predictor=predictor, pixels=pixels: predictor.network.infer(pixels),
                "decide": lambda predictor=predictor, logits=logits: predictor.decision(logits, image),
            }
            if bundle.card.recipe not in recipes:
                recipes.add(bundle.card.recipe)
                steps["preprocess"] = lambda predictor=predictor: predictor.preprocess.infer({"image": image})
            for part, call in steps.items():
                parts[part] += _median_ms(call) / len(image)
    return parts


def _median_ms(call: Callable[[], Any]) -> float:
    call()
    taken: list[float] = []
    for _ in range(PART_CALLS):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return 1e3 * statistics.median(taken)


def _run(path: Path, bundles: Path) -> tuple[StudyRun, str]:
    """One run in a process of its own, and the hash of the image that it saw.

    Raises:
        UsageError: it did not finish the study.
    """
    with TemporaryDirectory(prefix="coronanet-") as work:
        command = [sys.executable, "-m", "coronanet", "predict", str(path), "--out", f"{work}/results"]
        before, start = os.times(), time.perf_counter()
        done = subprocess.run(
            [*command, "--bundles", str(bundles), "--json"], capture_output=True, text=True, check=False
        )
        wall_s, after = time.perf_counter() - start, os.times()
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        answer = {"error": done.stderr.strip().rpartition("\n")[2]}
    if done.returncode != 0:
        raise UsageError(f"the study was not finished: {answer.get('error') or answer['failures'][0]['reason']}")
    (result,) = answer["results"]
    run = StudyRun(
        elapsed_s=result["elapsed_s"],
        loading_s=answer["loading_s"],
        time_to_report_s=wall_s,
        stages_s=result["stages_s"],
        cpu_s=after.children_user + after.children_system - before.children_user - before.children_system,
        peak_memory_bytes=answer["peak_memory_bytes"],
    )
    return run, result["report"]["input"]["image_sha256"]


def _method(source: str, rule: WarmUpRule, repeats: int) -> Method:
    return Method(
        verb="bench study",
        measures="`coronanet predict` of one study, from the first look at its files to its finished folder, the "
        "networks open; beside it the same ensemble on slices that are in memory, nothing written",
        transfers="files read and written, in the cache of the system",
        order="the engine alone, then in turns the study and the engine alone",
        input=InputRecord(description=source, dtype="int16", shape=(), slices=0, sha256="", step="the study itself"),
        warm_up=rule,
        plan=Plan(repeats, LIMIT_S),
        fresh="each study in a process of its own; peak memory is the most that was resident in it",
    )


def _with_input(protocol: Protocol, case: StudyCase, digest: str) -> Protocol:
    """The protocol with what the study turned out to be."""
    update = {"shape": (case.rows, case.columns), "slices": case.slices, "sha256": digest}
    method = protocol.method.model_copy(update={"input": protocol.method.input.model_copy(update=update)})
    return protocol.model_copy(update={"method": method})
