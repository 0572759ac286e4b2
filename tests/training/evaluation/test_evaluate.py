"""`coronanet evaluate`: one code scores weights, bundles and maps, and the test splits stay shut without --final."""

import csv
import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from coronanet.cli import main
from coronanet.engines.bundle import hash_file
from coronanet.engines.predictor import Choice
from coronanet.engines.slices import phantom_slices
from coronanet.export.pipeline import export_bundle
from coronanet.model.card import Card, Geometry, Network, Normalisation, TrainingData, Window
from coronanet.model.errors import UsageError
from coronanet.model.networks import build
from coronanet.model.study import Study
from coronanet.model.tasks import TASKS, TaskName
from coronanet.model.weights import save_weights
from coronanet.training.evaluation import evaluate as evaluate_module
from coronanet.training.evaluation.evaluate import evaluate, evaluate_study, sets_for
from coronanet.training.evaluation.ledger import read_ledger
from coronanet.training.evaluation.scores import score_masks, score_probabilities, tally_mask
from coronanet.training.evaluation.sets import Case, CaseSet, HeldBack
from coronanet.training.evaluation.subjects import Decide, Subject, find_subjects, hash_maps, read_map
from coronanet.training.evaluation.test_sets import final_sets
from coronanet.training.evaluation.views import VIEWS, cropped, rewindowed, turned
from numpy.typing import NDArray


def _card() -> Card:
    return Card(
        task="lung_segmentation",
        network=Network(family="unet", parameters={"features": 2, "dropout": 0.0}),
        labels=TASKS["lung_segmentation"].labels,
        geometry=Geometry(height=64, width=64),
        window=Window(low_hu=-1350.0, high_hu=150.0),
        normalisation=Normalisation(mean=0.5, std=0.3),
        threshold=0.5,
        tolerance=0.01,
        training_data=TrainingData(sources=(), slices=0, sha256=""),
        validation={},
        licence="none",
        intended_use="tests",
    )


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained lung network of two features."""
    folder = tmp_path_factory.mktemp("weights") / "lung_segmentation"
    folder.mkdir()
    card = _card()
    torch.manual_seed(0)
    network = build(card).eval()
    save_weights(network, folder / "weights.safetensors")
    (folder / "card.json").write_text(card.to_json(), encoding="utf-8")
    return folder


def _disc(side: int, radius: int) -> NDArray[np.uint8]:
    rows, columns = np.ogrid[:side, :side]
    return ((rows - side // 2) ** 2 + (columns - side // 2) ** 2 <= radius**2).astype(np.uint8)


@pytest.fixture
def test_data(tmp_path: Path) -> Path:
    """A folder with three slices in the layout of MedSeg's test split; the third has no consolidation."""
    root = tmp_path / "data" / "medseg98_covid_semiseg" / "test"
    for name in ("images", "binary", "multiclass"):
        (root / name).mkdir(parents=True)
    for stem in (7, 12, 30):
        kinds = _disc(64, 20) if stem == 30 else _disc(64, 20) + _disc(64, 8)
        cv2.imwrite(str(root / "images" / f"{stem}.jpg"), 60 + kinds * 60)
        cv2.imwrite(str(root / "multiclass" / f"{stem}.png"), kinds)
        cv2.imwrite(str(root / "binary" / f"{stem}.png"), (kinds > 0).astype(np.uint8) * 255)
    return tmp_path / "data"


def _write_maps(folder: Path, maps: dict[int, NDArray[np.uint8]]) -> Path:
    folder.mkdir()
    for stem, soft in maps.items():
        cv2.imwrite(str(folder / f"{stem}.png"), soft)
    return folder


def _truths(data: Path, kind: str = "binary") -> dict[int, NDArray[np.uint8]]:
    root = data / "medseg98_covid_semiseg" / "test" / kind
    return {int(path.stem): cv2.imread(str(path), 0).astype(np.uint8) for path in root.glob("*.png")}


def _run(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> dict[str, object]:
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", *map(str, arguments), "--json"])
    shown = capsys.readouterr()
    assert stopped.value.code == code, shown.err
    return json.loads(shown.out)


# ---- scores ----------------------------------------------------------------------------------------------------------


def _cases(truths: list[NDArray[np.uint8]], task: TaskName, labels: tuple[int, ...] = (1,)) -> CaseSet:
    image = np.zeros(truths[0].shape[-2:] or (4, 4), np.int16)
    return CaseSet("set", task, labels, tuple(Case(Path(f"{i}.png"), str(i), image, t) for i, t in enumerate(truths)))


def test_means_are_over_the_images_that_show_the_label_and_pools_over_all() -> None:
    shown, other = np.array([[1, 1, 0, 0]], np.uint8), np.array([[1, 0, 0, 0]], np.uint8)
    empty = np.zeros((1, 4), np.uint8)
    cases = _cases([shown, shown, empty], "binary_segmentation")
    (scores,) = score_masks(cases, (1,), [shown, other, other])
    values = {name: found.value for name, found in scores.values.items()}
    assert (scores.label, scores.images, scores.showing, scores.resampled) == ("lesion", 3, 2, "3 images")
    assert values["dice"] == pytest.approx((1 + 2 / 3) / 2)
    assert values["dice_pooled"] == pytest.approx(2 * 3 / (4 + 3 + 1))
    assert values["sensitivity"] == pytest.approx((1 + 0.5) / 2)
    assert values["specificity"] == pytest.approx((1 + 1 + 0.75) / 3)
    assert values["iou"] == pytest.approx((1 + 0.5) / 2)
    # Of the six pairs of four pixels, {1 3} against {2 2} judges three otherwise.
    assert values["rand_error"] == pytest.approx((0 + 3 / 6) / 2)


def test_several_labels_are_also_scored_as_one_map() -> None:
    truth = np.array([[1, 1, 2, 2, 0, 0]], np.uint8)
    called = np.array([[1, 1, 2, 0, 0, 0]], np.uint8)
    ground_glass, consolidation, whole = score_masks(_cases([truth], "multiclass_segmentation"), (1, 2), [called])
    assert [scores.label for scores in (ground_glass, consolidation, whole)] == [
        "ground glass",
        "consolidation",
        "all labels",
    ]
    assert ground_glass.values["dice"].value == 1.0
    assert consolidation.values["dice"].value == pytest.approx(2 / 3)
    assert whole.values["dice"].value == pytest.approx((1 + 2 / 3) / 2)
    # One pixel moves from the pair of 2 to the pair of 0: it leaves one partner and gains two, of 15 pairs.
    assert whole.values["rand_error"].value == pytest.approx(3 / 15)


def test_a_mask_where_the_label_is_not_has_no_dice() -> None:
    tally = tally_mask(np.ones((2, 2), bool), np.zeros((2, 2), bool))
    assert np.isnan(tally.dice)
    assert (tally.overlap, tally.marked, tally.specificity) == (0, 4, 0.0)


def test_classification_is_scored_at_the_operating_point() -> None:
    truth = [np.array(value, np.uint8) for value in (1, 1, 1, 0, 0)]
    probability = [np.array(value) for value in (0.9, 0.4, 0.2, 0.3, 0.1)]
    (scores,) = score_probabilities(_cases(truth, "classification"), probability, 0.25)
    values = {name: found.value for name, found in scores.values.items()}
    assert values["auc"] == pytest.approx(5 / 6)
    assert values["sensitivity"] == pytest.approx(2 / 3)
    assert values["specificity"] == pytest.approx(1 / 2)
    assert values["accuracy"] == pytest.approx(3 / 5)
    assert values["f1"] == pytest.approx(2 * 2 / (3 + 3))


# ---- maps ------------------------------------------------------------------------------------------------------------


def test_a_map_is_decided_at_one_half_and_resized_before_that(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "soft.png"), np.array([[127, 128], [0, 255]], np.uint8))
    assert read_map(tmp_path / "soft.png", (2, 2)).tolist() == [[0, 1], [0, 1]]
    large = np.kron(_disc(32, 8), np.ones((2, 2), np.uint8)) * 255
    cv2.imwrite(str(tmp_path / "large.png"), large)
    assert np.count_nonzero(read_map(tmp_path / "large.png", (32, 32)) != _disc(32, 8)) == 0


def test_perfect_maps_score_one_and_go_into_the_ledger(
    test_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    maps, ledger = _write_maps(tmp_path / "binary_Perfect", _truths(test_data)), tmp_path / "ledger.csv"
    options = ("--task", "binary_segmentation", "--final", "--data", test_data, "--ledger", ledger)
    answer = _run(capsys, maps, *options)
    assert answer["ledger"] == str(ledger)
    (row,) = read_ledger(ledger)
    assert (row.set, row.label, row.images, row.scores["dice"]) == ("MedSeg test", "lesion", 3, 1.0)
    assert row.sha256 == hash_maps(sorted(maps.iterdir()))
    assert row.command == f"coronanet evaluate {maps} --task binary_segmentation --final"
    first = ledger.read_text()
    _run(capsys, maps, *options)
    assert ledger.read_text().startswith(first)
    assert len(read_ledger(ledger)) == 2


def test_a_type_is_scored_on_the_images_that_have_it(
    test_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = _truths(test_data, "multiclass")
    maps = _write_maps(tmp_path / "con", {stem: (kind == 2).astype(np.uint8) * 255 for stem, kind in kinds.items()})
    _run(capsys, maps, "--label", "consolidation", "--final", "--data", test_data, "--ledger", tmp_path / "l.csv")
    (row,) = read_ledger(tmp_path / "l.csv")
    assert (row.label, row.images, row.showing, row.scores["dice"]) == ("consolidation", 3, 2, 1.0)


def test_missing_maps_are_named_and_nothing_is_written(
    test_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truths = _truths(test_data)
    maps, ledger = _write_maps(tmp_path / "maps", {7: truths[7]}), tmp_path / "ledger.csv"
    answer = _run(
        capsys, maps, "--task", "binary_segmentation", "--final", "--data", test_data, "--ledger", ledger, code=2
    )
    assert "2 of the 3 slices of MedSeg test: 12, 30" in str(answer["error"])
    assert not ledger.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "--task or --label"),
        (["--task", "classification"], "no maps of 'classification'"),
        (["--task", "multiclass_segmentation"], "one type at a time"),
        (["--label", "glass"], "no lesion type 'glass'"),
        (["--label", "consolidation", "--task", "lung_segmentation"], "has no types"),
        (["--task", "binary_segmentation", "--backend", "onnxruntime"], "leave out --backend"),
        (["--task", "binary_segmentation", "--views", "--final"], "--views needs weights"),
        (["--task", "binary_segmentation"], "the test splits need --final"),
    ],
)
def test_wrong_use_of_maps_is_one_line(
    options: list[str], said: str, test_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    maps = _write_maps(tmp_path / "maps", _truths(test_data))
    answer = _run(capsys, maps, *options, "--data", test_data, "--ledger", tmp_path / "l.csv", code=2)
    assert said in str(answer["error"])


# ---- weights and bundles ---------------------------------------------------------------------------------------------


def test_weights_are_scored_on_the_held_back_volume_alone(
    synthetic_data: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = _run(capsys, weights, "--data", synthetic_data)
    assert isinstance(answer["rows"], list)
    (row,) = answer["rows"]
    assert (row["set"], row["label"], row["images"]) == ("Radiopaedia, volumes 4", "lung", 6)
    assert row["sha256"] == hash_file(weights / "weights.safetensors")
    assert answer["ledger"] is None


def test_a_bundle_scores_what_its_weights_score(synthetic_data: Path, weights: Path, tmp_path: Path) -> None:
    bundle = export_bundle(weights, tmp_path, phantom_slices())
    held_back = HeldBack(synthetic_data)
    scores = []
    for path, choice in ((weights, None), (bundle.path, Choice("onnxruntime", "fp32")), (tmp_path, None)):
        (subject,) = find_subjects(path, choice=choice)
        sets = sets_for(subject, held_back, synthetic_data, final=False)
        (result,) = evaluate(subject, sets)
        scores.append(result.scores.values["dice_pooled"].value)
    assert 0 < scores[0] < 1
    assert scores == pytest.approx([scores[0]] * 3, abs=1e-3)


def test_weights_do_not_run_on_a_backend(weights: Path) -> None:
    with pytest.raises(UsageError, match="export a bundle"):
        find_subjects(weights, choice=Choice("onnxruntime", "fp32"))
    with pytest.raises(UsageError, match="folders of maps"):
        find_subjects(weights, task="lung_segmentation")


# ---- the test splits -------------------------------------------------------------------------------------------------


def test_the_test_splits_stay_shut_without_final(
    test_data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def opened(*_: object) -> tuple[CaseSet, ...]:
        raise AssertionError("a test split was opened")

    maps = _write_maps(tmp_path / "maps", _truths(test_data))
    (subject,) = find_subjects(maps, task="binary_segmentation")
    monkeypatch.setattr(evaluate_module, "final_sets", opened)
    with pytest.raises(UsageError, match="need --final"):
        sets_for(subject, HeldBack(test_data), test_data, final=False)
    with pytest.raises(AssertionError, match="was opened"):
        sets_for(subject, HeldBack(test_data), test_data, final=True)


def test_a_damaged_ledger_ends_the_run_before_a_test_split_is_opened(
    test_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*_: object) -> tuple[CaseSet, ...]:
        raise AssertionError("a test split was opened")

    monkeypatch.setattr(evaluate_module, "final_sets", opened)
    ledger = tmp_path / "ledger.csv"
    ledger.write_text("a,b\n1,2\n")
    maps = _write_maps(tmp_path / "maps", _truths(test_data))
    answer = _run(
        capsys, maps, "--task", "binary_segmentation", "--final", "--data", test_data, "--ledger", ledger, code=2
    )
    assert "is not a test ledger" in str(answer["error"])
    assert ledger.read_text() == "a,b\n1,2\n"


def test_ucsd_is_scored_by_patient_beside_its_baseline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "ucsd_covid_ct"
    rng = np.random.default_rng(0)
    rows: list[dict[str, object]] = []
    for part in ("train", "val", "test"):
        for index in range(12):
            covid = index % 2
            name = f"{'COVID' if covid else 'NonCOVID'}/{part}{index}.{'png' if covid else 'jpg'}"
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / name), rng.integers(20, 230, (64, 80)).astype(np.uint8))
            patient = f"{part}-{covid}-{index // 4}"
            rows.append({"file": name, "covid": covid, "split": part, "patient_id": patient, "orig_mode": "L"})
    with (root / "split.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    answer = _run(capsys, "shortcuts", "--data", tmp_path)
    assert isinstance(answer["rows"], list)
    assert [row["set"] for row in answer["rows"]] == ["UCSD COVID-CT val"]
    _run(capsys, "shortcuts", "--final", "--data", tmp_path, "--ledger", tmp_path / "ledger.csv")
    found = read_ledger(tmp_path / "ledger.csv")
    assert [(row.kind, row.set, row.images) for row in found] == [
        ("baseline", "UCSD COVID-CT val", 12),
        ("baseline", "UCSD COVID-CT test", 12),
    ]
    # The format gives the class away, which is what the baseline is there to show.
    assert found[1].scores["auc"] == 1.0
    assert found[1].resampled == "12 images of 6 patients"


# ---- views and studies -----------------------------------------------------------------------------------------------


def _subject(decide: Decide, task: TaskName, threshold: float = 0.5) -> Subject:
    @contextmanager
    def start() -> Generator[Decide]:
        yield decide

    return Subject(
        kind="weights",
        path=Path("network"),
        task=task,
        name="by intensity",
        runs_on="torch fp32",
        sha256="0" * 64,
        card_sha256="1" * 64,
        threshold=threshold,
        labels=None,
        covers=lambda _: True,
        takes_views=True,
        start=start,
    )


def _bright(case: Case) -> NDArray[np.uint8]:
    return (case.image > -300).astype(np.uint8)


def test_every_view_shows_the_truth_as_it_shows_the_slice() -> None:
    truth = np.zeros((40, 60), np.uint8)
    truth[5:15, 10:40] = 1
    image = np.where(truth, -200, -800).astype(np.int16)
    case = Case(Path("a.png"), "a", image, truth, (2, 5, 30, 50))
    results = evaluate(
        _subject(_bright, "binary_segmentation"), [CaseSet("set", "binary_segmentation", (1,), (case,))], VIEWS
    )
    assert [result.view for result in results] == ["as given", *(view.name for view in VIEWS)]
    assert [result.scores.values["dice"].value for result in results] == [1.0] * 6
    turn = turned(case, 1)
    assert turn.image.shape == (60, 40)
    assert turn.image[0, 0] == image[0, -1]
    assert cropped(case).image.shape == (28, 45)
    assert cropped(replace(case, lung_box=None)) == replace(case, lung_box=None)


def test_a_set_without_lungs_has_no_cropped_view() -> None:
    case = Case(Path("a.png"), "a", np.zeros((8, 8), np.int16), np.ones((8, 8), np.uint8))
    sets = [CaseSet("set", "binary_segmentation", (1,), (case,))]
    results = evaluate(_subject(_bright, "binary_segmentation"), sets, VIEWS)
    assert "cropped to the lungs" not in [result.view for result in results]


def test_another_window_clips_and_keeps_256_steps() -> None:
    image = np.arange(-1350, 700, dtype=np.int16)[None]
    read = rewindowed(image, (-1000, 400))
    assert (read.min(), read.max()) == (-1000, 400)
    inside = (image >= -1000) & (image <= 400)
    assert np.abs(read - image)[inside].max() <= 3
    assert len(np.unique(read)) == 256


def test_a_study_counts_infected_slices_and_lesion_within_the_lungs() -> None:
    image = np.full((3, 10, 10), -1000, np.int16)
    image[:, :, :5] = -800
    image[0, :2, :5] = -200
    image[0, :, 5:] = -200
    study = Study("normal001", image, "nifti")
    lungs = _subject(lambda case: np.pad(np.ones((10, 5), np.uint8), ((0, 0), (0, 5))), "lung_segmentation")
    (lesion,) = evaluate_study(_subject(_bright, "binary_segmentation"), study, lungs)
    assert lesion.set == "COVID-CT-MD normal001"
    assert lesion.scores.values["percent_of_lung"].value == pytest.approx(100 * 10 / 150)
    share = _subject(lambda case: np.asarray((case.image > -300).mean()), "classification", threshold=0.1)
    (infected,) = evaluate_study(share, study, lungs)
    assert infected.scores.values["called_infected"].value == 1
    assert infected.scores.images == 3
    assert evaluate_study(_subject(_bright, "lung_segmentation"), study, lungs) == []


# ---- the published maps ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "task", "label", "dice", "pooled"),
    [
        ("binary_SemiInfNet", "binary_segmentation", None, 0.770, 0.822),
        ("ggo_FCN8s", None, "ground_glass", 0.472, 0.595),
        ("con_SemiInfNet_UNet", None, "consolidation", 0.459, 0.610),
    ],
)
def test_published_maps_score_what_was_published(
    folder: str, task: str | None, label: str | None, dice: float, pooled: float, data: Path
) -> None:
    maps = data / "medseg98_covid_semiseg" / "published_predictions" / folder
    if not maps.is_dir():
        pytest.skip("the published prediction maps are not in the data folder")
    (subject,) = find_subjects(maps, task=task, label=label)
    (cases,) = final_sets(subject.task, data)
    assert subject.labels is not None
    (result,) = evaluate(subject, [replace(cases, labels=subject.labels)])
    assert result.scores.values["dice"].value == pytest.approx(dice, abs=5e-4)
    assert result.scores.values["dice_pooled"].value == pytest.approx(pooled, abs=5e-4)
