"""The ledger only grows, and the page is what the ledger says."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from coronanet.engines.places import ROOT
from coronanet.model.errors import UsageError
from coronanet.training.evaluation.ledger import COLUMNS, Row, append, read_ledger, to_csv
from coronanet.training.evaluation.results import NOT_A_DEVICE, newest, render, shipped

ROW = Row(
    date_utc="2026-01-02T03:04:05Z",
    sha256="a" * 64,
    card_sha256="b" * 64,
    kind="weights",
    name="unet",
    runs_on="torch fp32",
    task="binary_segmentation",
    set="MedSeg test",
    label="lesion",
    view="as given",
    images=48,
    showing=48,
    resampled="48 images",
    command="coronanet evaluate runs/weights --final",
    scores={"dice": 0.75, "specificity": 0.9},
    intervals={"dice": (0.7, 0.8)},
)
MAPS = replace(ROW, sha256="c" * 64, card_sha256="", kind="maps", name="binary_UNet", runs_on="", scores={"dice": 0.8})


def test_a_ledger_reads_back_what_was_appended_and_keeps_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "docs" / "ledger.csv"
    append(path, [ROW])
    before = path.read_text()
    study = replace(MAPS, showing=None, resampled="", intervals={}, command='a "quoted", command')
    append(path, [study])
    assert path.read_text().startswith(before)
    assert read_ledger(path) == [ROW, study]
    assert before.splitlines()[0] == ",".join(COLUMNS)
    assert read_ledger(tmp_path / "none.csv") == []


def test_a_ledger_that_cannot_be_replaced_stays_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger.csv"
    append(path, [ROW])
    before = path.read_text()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        append(path, [MAPS])
    assert path.read_text() == before
    assert [file.name for file in tmp_path.iterdir()] == ["ledger.csv"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("48,48,48 images", "many,48,48 images"),
        lambda text: text.replace('""dice"": 0.75', '""dice"": '),
        lambda text: text.rstrip() + ",more\n",
        lambda text: text.rsplit(",", 3)[0],
    ],
)
def test_a_damaged_line_is_named(damage: Callable[[str], str], tmp_path: Path) -> None:
    path = tmp_path / "ledger.csv"
    path.write_text(damage(to_csv([ROW])))
    with pytest.raises(UsageError, match="line 2 is damaged"):
        read_ledger(path)


def test_the_best_stands_first_with_its_interval_and_where_it_comes_from() -> None:
    page = render([ROW, MAPS], {ROW.sha256})
    assert page.index("U-Net [Fan 2020] (2) | 0.800 (0.700 to 0.800)") < page.index(
        "**Corona-Net unet**, torch fp32 (1)"
    )
    assert "| 0.750 (0.700 to 0.800) | 0.900 |" in page
    assert "48 images, 48 of them show it; intervals over 48 images." in page
    assert f"| 1 | `{ROW.command}` | {ROW.date_utc} | `{ROW.sha256}` | `{ROW.card_sha256}` |" in page
    assert NOT_A_DEVICE in page


def test_what_was_scored_again_stands_once_and_other_weights_stand_beside_it() -> None:
    again = replace(ROW, date_utc="2026-02-01T00:00:00Z", scores={"dice": 0.76})
    other = replace(ROW, sha256="d" * 64)
    assert newest([ROW, other, again]) == [again, other]


def test_only_the_weights_that_ship_stand_out() -> None:
    other = replace(ROW, sha256="d" * 64, name="unet (image labels only)")
    page = render([ROW, other], {ROW.sha256})
    assert "| **Corona-Net unet**, torch fp32 (1) |" in page
    assert "| Corona-Net unet (image labels only), does not ship, torch fp32 (2) |" in page


def test_views_are_told_as_what_they_change() -> None:
    turned = replace(ROW, view="turned by 90 degrees", scores={"dice": 0.745})
    page = render([ROW, turned], set[str]())
    assert "| 0.750 | turned by 90 degrees | -0.005 |" in page
    assert "0.745 (" not in page
    assert "shown otherwise" not in render([ROW], set[str]())


def test_studies_and_held_back_groups_come_after_the_test_splits() -> None:
    study = replace(
        ROW,
        task="classification",
        set="COVID-CT-MD normal001",
        label="infected",
        images=26,
        showing=None,
        resampled="",
        scores={"called_infected": 2.0},
        intervals={},
    )
    page = render([study, ROW], set[str]())
    assert "| 2 of 26 |" in page
    assert page.index("## MedSeg test") < page.index("### COVID-CT-MD normal001: infected (classification)")


def test_the_committed_page_is_what_the_committed_ledger_says() -> None:
    ledger, page = ROOT / "docs" / "test-ledger.csv", ROOT / "docs" / "results.md"
    assert page.read_text(encoding="utf-8") == render(read_ledger(ledger), shipped(ROOT / "model" / "pretrained")), (
        "write it again: coronanet evaluate --page docs/results.md"
    )
    assert read_ledger(ledger)
