"""The page: whole in itself, escaped, and as a browser shows and prints it."""

import html
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from coronanet.model.assessment import assess
from coronanet.model.findings import Decisions
from coronanet.model.lungs import keep_lungs
from coronanet.model.phantom import make_labelled_phantom
from coronanet.model.study import Study
from coronanet.model.tasks import TASK_NAMES
from coronanet.pages.page import figure
from coronanet.serving.overlay import LESION_COLOUR, TYPE_COLOURS, hex_colour
from coronanet.serving.report import ModelRecord
from coronanet.serving.result import write_result

Browse = Callable[..., str]

HOSTILE = """<script>alert(1)</script>"><img src=x onerror=alert(2)> & 'co' {{ 7 * 7 }}"""


@pytest.fixture(scope="module")
def phantom_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a phantom with a hostile name."""
    phantom = make_labelled_phantom(size=128, slices=24)
    study = replace(phantom.study, name=HOSTILE, notes=(*phantom.study.notes, HOSTILE))
    masks = (phantom.lesion_mask, phantom.lesion_types, phantom.lung_mask)
    return write_page(
        tmp_path_factory.mktemp("page") / "phantom", study, Decisions(np.full(24, 0.9, np.float32), *masks)
    )


def write_page(folder: Path, study: Study, decisions: Decisions) -> Path:
    models = [ModelRecord(name, "ab" * 32, "onnxruntime", "fp32") for name in TASK_NAMES]
    cleaning = keep_lungs(decisions)
    write_result(folder, study, decisions, assess(study, decisions), models, cleaning=cleaning, inference_ms=1.0)
    return folder / "report.html"


def an_image_page(folder: Path) -> Path:
    image = np.full((1, 60, 80), -800, np.int16)
    lung = np.ones((1, 60, 80), np.uint8)
    lesion = np.zeros_like(lung)
    lesion[0, 10:30, 10:30] = 1
    study = Study("slice", image, "image", window_hu=(-1350.0, 150.0))
    return write_page(folder, study, Decisions(np.full(1, 0.4, np.float32), lesion, lesion * np.uint8(2), lung))


def words(page: Path) -> str:
    text = re.sub(r"data:image/png;base64,[^\"]*", "", page.read_text(encoding="utf-8"))
    return " ".join(html.unescape(re.sub(r"<style.*?</style>|<[^>]*>", " ", text, flags=re.DOTALL)).split())


def test_the_page_says_what_the_report_says(phantom_page: Path) -> None:
    text = words(phantom_page)
    for said in (
        "Research software, not a medical device",
        "SYNTHETIC PHANTOM, not a patient",
        "surrogate CT severity score, band",
        "Right side",
        "Lower third",
        "right lower third",
        "odds ratio 5.08",
        "ab" * 32,
        "neither a probability for this one nor advice on treatment",
    ):
        assert said in text
    assert text.count("of 25") >= 2


def test_the_page_needs_nothing_beside_it_and_runs_nothing(phantom_page: Path) -> None:
    text = phantom_page.read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    assert re.findall(r"<script|<link(?! rel=\"icon\")|<iframe|javascript:|\son\w+=\"|url\(", text) == []
    assert [source[:22] for source in re.findall(r'src="([^"]*)"', text)] == ["data:image/png;base64,"]


def test_what_comes_from_the_input_is_escaped(phantom_page: Path) -> None:
    text = phantom_page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "<img src=x" not in text
    assert text.count(html.escape(HOSTILE).replace("&#x27;", "&#39;").replace("&quot;", "&#34;")) == 3


def test_kinds_have_the_colours_of_the_overlay_and_are_told_apart_without_them(phantom_page: Path) -> None:
    (svg,) = re.findall(r"<svg.*</svg>", phantom_page.read_text(encoding="utf-8"), re.DOTALL)
    lines = dict(re.findall(r'<polyline [^>]*stroke="(#\w+)"[^>]*?(stroke-dasharray="[^"]*"|/>)', svg))
    assert set(lines) == {hex_colour(colour) for colour in (LESION_COLOUR, *TYPE_COLOURS.values())}
    assert len({lines[hex_colour(colour)] for colour in TYPE_COLOURS.values()}) == 3
    assert hex_colour(TYPE_COLOURS[1]) == "#56b4e9"


def test_a_single_slice_has_no_course_and_says_what_cannot_be_said(tmp_path: Path) -> None:
    page = an_image_page(tmp_path / "slice")
    text = words(page)
    assert "<svg" not in page.read_text(encoding="utf-8")
    assert "The surrogate score cannot be said: the input does not record which side is right" in text
    assert "grey levels read as -1350 to 150 HU because the user said so" in text
    assert text.count("cannot be said") >= 6


@pytest.mark.parametrize(
    ("value", "arguments", "text"),
    [(None, (), "-"), (1234.56, ("ml", 0), "1 235 ml"), (0.04, (), "0.0"), (12.345, ("%",), "12.3 %")],
)
def test_figures_read_well(value: float | None, arguments: tuple[str | int, ...], text: str) -> None:
    assert figure(value, *arguments) == text  # pyright: ignore[reportArgumentType]


def test_a_browser_shows_and_prints_it_without_a_complaint(browse: Browse, phantom_page: Path, tmp_path: Path) -> None:
    picture, paper = tmp_path / "page.png", tmp_path / "page.pdf"
    log = browse(phantom_page, "--window-size=1120,3000", f"--screenshot={picture}")
    assert "CONSOLE" not in log
    shown = cv2.imread(str(picture))
    assert shown is not None
    assert shown.shape == (3000, 1120, 3)
    for colour in TYPE_COLOURS.values():
        assert (np.abs(shown.astype(int) - colour).max(axis=2) < 12).sum() > 100
    browse(phantom_page, "--no-pdf-header-footer", f"--print-to-pdf={paper}")
    data = paper.read_bytes()
    assert data.startswith(b"%PDF")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", data)) <= 5


def test_a_complaint_would_be_heard(browse: Browse, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(
        "<!doctype html><meta http-equiv=Content-Security-Policy content=\"default-src 'none'\"><script>1</script>",
        encoding="utf-8",
    )
    assert "CONSOLE" in browse(page, f"--screenshot={tmp_path / 'bad.png'}")
