"""Whole studies: written so that they are read as what they are, and measured against the engine alone."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from coronanet.benchmarks import bench_study
from coronanet.benchmarks.bench_study import measure_study
from coronanet.benchmarks.schemas import document_schema
from coronanet.benchmarks.study_files import DRAWN, FORMATS, Format, make_study, write_study
from coronanet.benchmarks.study_report import EngineBlock, StudyCase, StudyRun, summarise
from coronanet.benchmarks.timing import WarmUpRule
from coronanet.cli import main
from coronanet.engines.bundle import Bundle
from coronanet.engines.streams import BATCH
from coronanet.model.errors import UsageError
from coronanet.model.readers import Reading, find_inputs
from coronanet.model.tasks import TaskName


@pytest.mark.parametrize("kind", FORMATS)
def test_a_phantom_is_read_as_the_study_that_was_written(
    tmp_path: Path, kind: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coronanet.benchmarks.study_files.SIDE", 64)
    monkeypatch.setattr("coronanet.benchmarks.study_files.DRAWN", 4)
    drawn = make_study(10)
    (found,) = find_inputs(write_study(drawn, tmp_path, kind))
    study = found.open(Reading()).complete()
    assert study.kind == kind
    np.testing.assert_array_equal(study.image, drawn.image)
    assert drawn.spacing_mm is not None
    assert study.spacing_mm == pytest.approx(drawn.spacing_mm, rel=1e-4)
    assert study.tells_sides


def test_a_tall_phantom_is_as_high_as_a_short_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coronanet.benchmarks.study_files.SIDE", 64)
    assert DRAWN < 60
    tall = make_study(60)
    assert tall.spacing_mm is not None
    assert tall.spacing_mm[0] * len(tall.image) == pytest.approx(240.0)
    assert len({plane.tobytes() for plane in tall.image}) == DRAWN


def a_run(elapsed_s: float) -> StudyRun:
    return StudyRun(
        elapsed_s=elapsed_s, loading_s=1.0, time_to_report_s=9.0, stages_s={}, cpu_s=1.0, peak_memory_bytes=1
    )


def test_each_run_is_held_against_the_blocks_beside_it() -> None:
    case = StudyCase(source="x", slices=100, rows=1, columns=1, batch=2, streams=2, engines={})
    # The machine was half as fast in the second half.
    blocks = tuple(EngineBlock(slices=50, wall_s=wall_s) for wall_s in (1.0, 1.0, 2.0, 2.0))
    summary = summarise(case, blocks, (a_run(2.0), a_run(2.0), a_run(5.0)))
    assert summary.slices_per_s == pytest.approx(50.0)
    assert summary.engine_slices_per_s == pytest.approx(37.5)
    assert summary.ratio == pytest.approx(1.0)


@pytest.mark.parametrize(("path", "message"), [("nothing", "does not exist"), ("two", "holds 2 inputs")])
def test_what_is_not_one_study_is_refused(
    tmp_path: Path, bundles: Mapping[TaskName, Bundle], path: str, message: str
) -> None:
    if path == "two":
        (tmp_path / "two").mkdir()
        for name in ("a.png", "b.png"):
            (tmp_path / "two" / name).write_bytes(b"")
    with pytest.raises(UsageError, match=message):
        measure_study(tmp_path / path, bundles, {}, source="x", repeats=1, advance=lambda _: None)


def test_the_verb_measures_a_study_in_a_process_of_its_own(
    bundles: Mapping[TaskName, Bundle],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(bench_study, "WarmUpRule", lambda: WarmUpRule(most=4, limit_s=2.0))
    out = tmp_path / "study.json"
    with pytest.raises(SystemExit) as ended:
        main(["bench", "study", "--slices", "3", "--as", "nifti", "--repeats", "1", "--out", str(out), "--json"])
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert ended.value.code in (0, None)
    assert said == json.loads(out.read_text())
    jsonschema.validate(said, document_schema("bench-study"))
    case = said["case"]
    assert (case["slices"], case["rows"], case["columns"]) == (3, 512, 512)
    assert case["batch"] * case["streams"] <= BATCH
    assert said["case"]["engines"].keys() == bundles.keys()
    (run,) = said["runs"]
    assert set(run["stages_s"]) == {"open", "read", "wait", "place", "clean", "assess", "write"}
    beside = {"read"}
    alone = sum(seconds for stage, seconds in run["stages_s"].items() if stage not in beside)
    # One after the other, and little but them.
    assert run["elapsed_s"] / 2 < alone < run["elapsed_s"]
    assert run["elapsed_s"] + run["loading_s"] < run["time_to_report_s"]
    assert 100e6 < run["peak_memory_bytes"] < 2e9
    assert len(said["blocks"]) == 2
    assert len(said["protocol"]["method"]["input"]["sha256"]) == 64
    assert str(tmp_path) not in json.dumps(said)
