"""Who is looked at first, and why; and the list as a spreadsheet opens it."""

import csv
import io
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from coronanet.model.assessment import assess
from coronanet.model.errors import UsageError
from coronanet.model.findings import Decisions
from coronanet.model.lungs import Cleaning
from coronanet.model.phantom import make_labelled_phantom
from coronanet.model.readers import Unreadable
from coronanet.model.risk import risk_statements, severity_band
from coronanet.model.severity import SurrogateScore
from coronanet.serving.predict import Outcome, Result
from coronanet.serving.report import Report, Timings, make_report
from coronanet.serving.triage import (
    TriageRow,
    check_triage_replaceable,
    count_bands,
    to_csv,
    triage,
    write_triage,
)


@pytest.fixture(scope="module")
def report() -> Report:
    phantom = make_labelled_phantom(size=64, slices=24)
    masks = (phantom.lesion_mask, phantom.lesion_types, phantom.lung_mask)
    assessment = assess(phantom.study, Decisions(np.full(24, 0.9, np.float32), *masks))
    return make_report(
        phantom.study, [], assessment, cleaning=Cleaning(0, 0, 0), files=(), timings=Timings(1.0, 1.0, 1.0)
    )


def like(report: Report, name: str, points: int | None, fluid_ml: float, involved: float, probability: float) -> Result:
    """A study whose report says this."""
    kinds = {"ground_glass": 1.0, "consolidation": 1.0, "pleural_effusion": fluid_ml}
    severity = replace(
        report.severity,
        whole=replace(report.severity.whole, by_kind_ml=kinds, percent_involved=involved),
        surrogate_score=None if points is None else SurrogateScore(points, (), "surrogate"),
        cannot_be_said=() if points is not None else ("the lungs are cut off towards the feet",),
    )
    changed = replace(
        report,
        severity=severity,
        band=severity_band(severity.surrogate_score),
        risk=risk_statements(severity),
        findings=replace(report.findings, highest_infected_probability=probability),
        input=replace(report.input, name=name),
    )
    return Result(Path("out") / name, changed)


def order(*results: Result) -> list[str]:
    return [row.study for row in triage(Outcome(results, ()))]


def test_the_band_comes_first_and_what_cannot_be_said_before_the_middle_one(report: Report) -> None:
    bands = [
        like(report, "high", 18, 0, 1, 0.1),
        like(report, "unknown", None, 0, 0, 0.1),
        like(report, "middle", 12, 90, 60, 0.9),
        like(report, "low", 1, 90, 80, 1.0),
        like(report, "none", 0, 90, 90, 1.0),
    ]
    for shuffled in permutations(bands):
        assert order(*shuffled) == ["high", "unknown", "middle", "low", "none"]


def test_within_a_band_come_fluid_then_extent_then_the_classifier_then_the_name(report: Report) -> None:
    band = [
        like(report, "fluid", 5, 10, 1, 0.1),
        like(report, "much", 1, 9, 40, 0.1),
        like(report, "likely", 11, 0, 30, 0.9),
        like(report, "a", 9, 0, 30, 0.8),
        like(report, "b", 10, 0, 30, 0.8),
    ]
    for shuffled in permutations(band):
        assert order(*shuffled) == ["fluid", "much", "likely", "a", "b"]


def test_every_row_says_why_in_the_order_of_the_rule(report: Report) -> None:
    first, second, last = triage(
        Outcome(
            (like(report, "x", None, 3, 2, 0.5), like(report, "y", 19, 120, 44.44, 0.987)),
            (Unreadable("/secret/place/lost.nii", "/secret/place/lost.nii does not exist"),),
        )
    )
    assert (first.rank, first.study, first.severity_band, first.surrogate_ct_severity_score) == (1, "y", "high", 19)
    assert first.reasons == (
        "surrogate CT severity score 19 of 25, band high; pleural effusion 120 ml; 44.4 % of the lung involved; "
        "classifier 0.99"
    )
    assert second.severity_band == "cannot be said"
    assert "cannot be said (the lungs are cut off towards the feet)" in second.reasons
    assert "none to speak of" in second.reasons
    assert (last.rank, last.severity_band, last.study) == (None, "not finished", "lost.nii")
    assert last.reasons == "lost.nii does not exist"


def test_beds_are_counted_by_band(report: Report) -> None:
    results = tuple(like(report, str(i), points, 0, 1, 0.5) for i, points in enumerate((0, 3, 11, 12, 25, None)))
    counts = count_bands(triage(Outcome(results, (Unreadable("x", "no"),))))
    assert [(item.band, item.surrogate_scores, item.studies) for item in counts] == [
        ("high", "18 to 25", 1),
        ("middle", "12 to 17", 1),
        ("low", "1 to 11", 2),
        ("none", "0", 1),
        ("cannot be said", "", 1),
    ]
    assert all(item.published for item in counts[:-1])


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r\n=cmd|' /C calc'!A0", " =1"])
def test_no_cell_is_a_formula(report: Report, name: str) -> None:
    row = replace(triage(Outcome((like(report, "x", 5, 0, 1, 0.5),), ()))[0], study=name, reasons=name)
    (read,) = csv.DictReader(io.StringIO(to_csv((row,))))
    assert read["study"].startswith("'")
    assert read["reasons"].startswith("'")
    assert len(to_csv((row,)).splitlines()) == 2


def test_cells_come_back_as_they_were(report: Report) -> None:
    row = triage(Outcome((like(report, 'Müller, "A"; 1', 5, 0, 1.239, 0.5),), ()))[0]
    (read,) = csv.DictReader(io.StringIO(to_csv((row,))))
    assert read["study"] == 'Müller, "A"; 1'
    assert read["percent_of_lung_involved"] == "1.24"
    assert read["rank"] == "1"


def test_a_list_of_an_earlier_run_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    rows = (TriageRow(1, "x", "low", 3, 0.0, 1.0, 80.0, 0.5, "why", ""),)
    for _ in range(2):
        check_triage_replaceable(tmp_path)
        write_triage(tmp_path, rows)
    assert [entry.name for entry in tmp_path.iterdir()] == ["triage.csv"]
    (tmp_path / "triage.csv").write_bytes(b"\xff\xfe mine")
    with pytest.raises(UsageError, match="will not be replaced"):
        check_triage_replaceable(tmp_path)


def test_a_folder_of_that_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "triage.csv").mkdir()
    with pytest.raises(UsageError, match="choose another --out"):
        check_triage_replaceable(tmp_path)


def test_a_full_disk_leaves_the_earlier_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_triage(tmp_path, ())
    before = (tmp_path / "triage.csv").read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UsageError, match="No space left on device"):
        write_triage(tmp_path, ())
    assert (tmp_path / "triage.csv").read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["triage.csv"]
