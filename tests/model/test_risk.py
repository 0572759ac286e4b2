"""Published cut-offs are met, not met, or cannot be said, and every one names its source."""

from dataclasses import replace

import pytest
from coronanet.model.risk import RiskStatement, risk_statements, risk_table, severity_band, shows_effusion
from coronanet.model.severity import SURROGATE_LOBES, Region, Severity, SurrogateScore, surrogate_score


def extent(*, effusion_ml: float | None = 0.0, well_aerated: float | None = 85.0) -> Region:
    kinds = (
        None if effusion_ml is None else {"ground_glass": 1.0, "consolidation": 1.0, "pleural_effusion": effusion_ml}
    )
    return Region(4000.0, 50.0, kinds, 1.0, {"ground_glass": 0.5, "consolidation": 0.5}, well_aerated)


def score(total: int) -> SurrogateScore:
    return SurrogateScore(total, (), "surrogate")


def severity(points: int | None = 4, *, incomplete: str = "", region: Region | None = None) -> Severity:
    why = () if points is not None else (incomplete or "the input does not record which side is right",)
    return Severity(region or extent(), None, None, None if points is None else score(points), incomplete, why)


def by_id(given: Severity) -> dict[str, RiskStatement]:
    return {item.id: item for item in risk_statements(given)}


@pytest.mark.parametrize(
    ("points", "above_11", "from_18"),
    [
        (0, "not met", "not met"),
        (11, "not met", "not met"),
        (12, "met", "not met"),
        (17, "met", "not met"),
        (18, "met", "met"),
    ],
)
def test_the_scores_cut_offs_are_those_published(points: int, above_11: str, from_18: str) -> None:
    found = by_id(severity(points))
    assert (found["ct_score_12"].verdict, found["ct_score_18"].verdict) == (above_11, from_18)
    assert found["ct_score_18"].measured == points


@pytest.mark.parametrize(("percent", "verdict"), [(70.9, "met"), (71.0, "not met"), (90.0, "not met")])
def test_little_well_aerated_lung_meets_its_cut_off(percent: float, verdict: str) -> None:
    assert by_id(severity(region=extent(well_aerated=percent)))["well_aerated_71"].verdict == verdict


@pytest.mark.parametrize(("ml", "verdict"), [(0.0, "not met"), (9.9, "not met"), (10.0, "met"), (400.0, "met")])
def test_fluid_counts_from_ten_millilitres(ml: float, verdict: str) -> None:
    found = risk_statements(severity(region=extent(effusion_ml=ml)))
    assert [item.verdict for item in found if item.measure == "pleural_effusion"] == [verdict, verdict]
    assert shows_effusion(found) is (verdict == "met")


def test_what_is_missing_is_said_with_its_reason() -> None:
    cut = "the lungs are cut off towards the feet"
    found = by_id(severity(None, incomplete=cut))
    assert {item.verdict for item in found.values()} == {"cannot be said"}
    assert {item.measured for item in found.values()} == {None}
    assert all(cut in item.why for item in found.values())


def test_without_sides_only_the_score_cannot_be_said() -> None:
    found = by_id(severity(None))
    assert found["ct_score_18"].verdict == found["ct_score_12"].verdict == "cannot be said"
    assert found["well_aerated_71"].verdict == found["effusion_mortality"].verdict == "not met"


def test_fluid_that_is_seen_is_there_though_lung_is_missing() -> None:
    given = replace(severity(None, incomplete="cut off"), whole=extent(effusion_ml=50.0))
    assert by_id(given)["effusion_severity"].verdict == "met"


def test_without_spacing_there_is_no_volume_of_fluid() -> None:
    found = by_id(severity(None, incomplete="1 slice", region=extent(effusion_ml=None)))
    assert found["effusion_mortality"].verdict == "cannot be said"


def test_the_table_has_what_the_literature_says_and_where() -> None:
    cut_offs = {item.id: item for item in risk_table().cut_offs}
    assert "5.08" in cut_offs["effusion_severity"].effect
    assert "4.53" in cut_offs["effusion_mortality"].effect
    assert "PMC7334627" in cut_offs["ct_score_18"].reference
    assert "PMC7233411" in cut_offs["well_aerated_71"].reference
    assert "Azadbakht" in cut_offs["ct_score_12"].study
    assert all(item.size and item.reference.startswith("https://") for item in cut_offs.values())


@pytest.mark.parametrize(
    ("points", "band"),
    [(0, "none"), (1, "low"), (11, "low"), (12, "middle"), (17, "middle"), (18, "high"), (25, "high")],
)
def test_bands_lie_between_the_published_cut_offs(points: int, band: str) -> None:
    assert severity_band(score(points)) == band
    assert severity_band(None) is None


def test_every_score_has_a_band() -> None:
    for percent in (0, 3, 20, 40, 60, 90):
        assert severity_band(surrogate_score(dict.fromkeys(SURROGATE_LOBES, percent))) is not None
