"""The structured report that a PACS gets: every number with its unit, on the segment and the series that it is of."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from coronanet.model.assessment import Assessment, assess
from coronanet.model.findings import Decisions
from coronanet.model.readers import Reading, find_inputs
from coronanet.serving.dicom_out import write_dicom
from coronanet.serving.dicom_out.codes import CT_CHEST, LUNG, MILLILITRE, PERCENT, SEGMENTS, UNITLESS
from coronanet.serving.report import ModelRecord
from highdicom.sr import MeasurementReport, srread
from pydicom import dcmread
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

SeriesWriter = Callable[..., list[Path]]
Plant = Callable[[], Decisions]
Models = tuple[ModelRecord, ...]
VALIDATOR = shutil.which("dciodvfy")


@pytest.fixture
def written(tmp_path: Path, write_series: SeriesWriter, planted: Plant, models: Models) -> Assessment:
    """Both objects of the phantom in ``tmp_path``; what they must say."""
    write_series(tmp_path / "chest", BodyPartExamined="CHEST")
    (study,) = (found.open(Reading()).complete() for found in find_inputs(tmp_path / "chest"))
    assessment = assess(study, planted())
    write_dicom(tmp_path, study, planted(), assessment, models)
    return assessment


def test_every_segment_has_its_volume_and_its_share_of_the_lung(tmp_path: Path, written: Assessment) -> None:
    segmentation = dcmread(tmp_path / "segmentation.dcm")
    source = dcmread(next((tmp_path / "chest").iterdir()))
    whole = written.severity.whole
    assert whole.by_kind_ml is not None
    assert whole.percent_by_kind is not None
    volumes = [whole.lung_ml, *whole.by_kind_ml.values()]
    shares = [None, *whole.percent_by_kind.values(), None]
    groups = content(tmp_path).get_volumetric_roi_measurement_groups()
    assert len(groups) == 4
    for number, (group, volume, share) in enumerate(zip(groups, volumes, shares, strict=True), start=1):
        segment = group.referenced_segment
        assert segment is not None
        assert segment.source_series_for_segmentation is not None
        assert segment.referenced_sop_instance_uid == segmentation.SOPInstanceUID
        assert segment.referenced_segment_numbers == [number]
        assert segment.source_series_for_segmentation.value == source.SeriesInstanceUID
        assert group.tracking_uid == segmentation.SegmentSequence[number - 1].TrackingUID
        (measured,) = group.get_measurements(name=codes.SCT.Volume)
        assert measured.value == pytest.approx(volume, abs=1e-5)
        assert (measured.unit.value, measured.unit.scheme_designator) == ("mL", "UCUM")
        others = [each for each in group.get_measurements() if each.name != codes.SCT.Volume]
        assert [each.value for each in others] == ([] if share is None else [pytest.approx(share, abs=1e-5)])
        assert all(each.unit.value == "%" for each in others)


def test_the_whole_study_has_what_belongs_to_no_segment(tmp_path: Path, written: Assessment) -> None:
    (group,) = content(tmp_path).get_image_measurement_groups()
    found: dict[tuple[str, str], tuple[float, str]] = {}
    for each in group.get_measurements():
        side = "".join(site.laterality.meaning for site in each.finding_sites if site.laterality)
        found[each.name.value, side] = (each.value, each.unit.value)
    severity = written.severity
    assert severity.sides is not None
    assert severity.surrogate_score is not None
    expected: dict[tuple[str, str], tuple[float | None, str]] = {
        ("INFECTED_PROB", ""): (1.0, "1"),
        ("SURROGATE_CTSS", ""): (severity.surrogate_score.total, "{score}"),
    }
    for side, region in (("", severity.whole), ("Right", severity.sides["right"]), ("Left", severity.sides["left"])):
        expected["PERCENT_INVOLVED", side] = (region.percent_involved, "%")
        expected["WELL_AERATED", side] = (region.percent_well_aerated, "%")
        if side:
            expected["118565006", side] = (region.lung_ml, "mL")
    assert found.keys() == expected.keys()
    for key, (value, unit) in expected.items():
        assert found[key] == (pytest.approx(value, abs=1e-5), unit)


def content(folder: Path) -> MeasurementReport:
    report = srread(folder / "report-sr.dcm").content
    assert isinstance(report, MeasurementReport)
    return report


def test_it_is_preliminary_for_research_and_refers_to_every_image(tmp_path: Path, written: Assessment) -> None:
    dataset = dcmread(tmp_path / "report-sr.dcm")
    source = dcmread(next((tmp_path / "chest").iterdir()))
    assert dataset.StudyInstanceUID == source.StudyInstanceUID
    assert (dataset.VerificationFlag, dataset.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    assert dataset.ContentQualification == "RESEARCH"
    assert "Research use only. Not a medical device." in [item.get("TextValue") for item in dataset.ContentSequence]
    (study,) = dataset.CurrentRequestedProcedureEvidenceSequence
    assert [len(series.ReferencedSOPSequence) for series in study.ReferencedSeriesSequence] == [6, 1]


def test_codes_are_those_of_the_standard_but_for_two() -> None:
    said = {code for segment in SEGMENTS for code in (segment.category, segment.kind, segment.site)}
    said |= {LUNG, PERCENT, MILLILITRE, UNITLESS, CT_CHEST}
    unlisted = {code for code in said if code not in _listed(code.scheme_designator)}
    assert {(code.scheme_designator, code.value) for code in unlisted} == {("SCT", "95436008"), ("UCUM", "mL")}


def _listed(scheme: str) -> set[Code]:
    """What pydicom knows of PS3.16."""
    collection = getattr(codes, scheme)
    return {getattr(collection, name) for name in collection.dir()}


def test_without_thickness_there_are_no_volumes(
    tmp_path: Path, write_series: SeriesWriter, planted: Plant, models: Models
) -> None:
    paths = write_series(tmp_path / "chest", SliceThickness=None)
    study = find_inputs(paths[2])[0].open(Reading()).complete()
    whole = planted()
    decisions = Decisions(*(np.asarray(field[2:3]) for field in vars(whole).values()))
    write_dicom(tmp_path, study, decisions, assess(study, decisions), models)
    groups = content(tmp_path).get_volumetric_roi_measurement_groups()
    assert [group.get_measurements(name=codes.SCT.Volume) for group in groups] == [[], [], [], []]


@pytest.mark.skipif(VALIDATOR is None, reason="dciodvfy is not installed: apt install dicom3tools")
@pytest.mark.parametrize("name", ["segmentation.dcm", "report-sr.dcm"])
def test_dciodvfy_finds_no_error(tmp_path: Path, written: Assessment, name: str) -> None:
    assert VALIDATOR is not None
    done = subprocess.run([VALIDATOR, str(tmp_path / name)], capture_output=True, text=True, check=False)
    said = [line for line in (done.stdout + done.stderr).splitlines() if "99CORONANET" not in line]
    assert said in (["Segmentation"], ["ComprehensiveSR"])
