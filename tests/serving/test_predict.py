"""Studies through an ensemble: in batches, to folders, the bad ones beside the good; then the real networks."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from coronanet.engines.base import EngineBase, Tensors, TensorSpec, check_feeds
from coronanet.engines.bundle import Bundle
from coronanet.engines.predictor import IMAGE, Choice, LocalEnsemble, ensemble_output
from coronanet.model.errors import UsageError
from coronanet.model.phantom import make_labelled_phantom
from coronanet.model.readers import Reading, Unreadable, find_inputs, open_inputs
from coronanet.model.study import Arriving, Study
from coronanet.model.tasks import TASK_NAMES, TaskName
from coronanet.serving.predict import decide, local_models, predict_studies, served_models
from coronanet.serving.stages import Stages
from numpy.typing import NDArray


class FakeEnsemble(EngineBase):
    """Decides by simple thresholds and remembers its batches."""

    def __init__(self, max_batch: int = 8, outputs: tuple[TensorSpec, ...] | None = None) -> None:
        super().__init__((IMAGE,), outputs or tuple(ensemble_output(name) for name in TASK_NAMES), max_batch)
        self.batches: list[int] = []

    def infer(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        self.batches.append(check_feeds(feeds, self.inputs, self.max_batch))
        image = feeds["image"]
        if image[0, 0, 0] == 13:
            raise UsageError("the engine does not like this slice")
        answer = {
            "infected_probability": np.clip(image[:, 1, 1, None] / 100, 0, 1).astype(np.float32),
            "lesion_mask": (image > -700).astype(np.uint8),
            "lesion_types": (image > -700).astype(np.uint8) * 2,
            "lung_mask": (image < -200).astype(np.uint8),
        }
        return {spec.name: answer[spec.name] for spec in self.outputs}


def a_study(name: str = "a", slices: int = 10) -> Study:
    image = np.full((slices, 16, 16), -800, np.int16)
    image[:, 1, 1] = np.arange(slices)
    return Study(name, image, "dicom", (2.0, 1.0, 1.0), np.diag([-1.0, -1, 2, 1]))


@pytest.mark.parametrize(("max_batch", "batches"), [(8, [2] * 5), (2, [2] * 5), (1, [1] * 10)])
def test_slices_go_in_batches_and_come_back_in_order(max_batch: int, batches: list[int]) -> None:
    engine, done = FakeEnsemble(max_batch), list[tuple[str, int, int]]()
    decisions, _ = decide(engine, Arriving.whole(a_study()), Stages(), progress=lambda *step: done.append(step))
    assert engine.batches == batches
    np.testing.assert_allclose(decisions.infected_probability, np.arange(10) / 100)
    assert done[-1] == ("a", 10, 10)


def test_large_slices_go_alone() -> None:
    engine = FakeEnsemble()
    decide(engine, Arriving.whole(Study("big", np.full((3, 4096, 2100), -800, np.int16), "dicom")), Stages())
    assert engine.batches == [1, 1, 1]


def test_an_ensemble_without_one_of_the_decisions_is_refused() -> None:
    outputs = tuple(ensemble_output(name) for name in TASK_NAMES[:3])
    with pytest.raises(UsageError, match="gives no lung_mask"):
        decide(FakeEnsemble(outputs=outputs), Arriving.whole(a_study()), Stages())


def test_two_inputs_of_one_name_get_two_folders_and_a_second_run_replaces_them(tmp_path: Path) -> None:
    for _ in range(2):
        outcome = predict_studies(
            FakeEnsemble(), [a_study("s"), a_study("S"), a_study("s-2")], tmp_path, models=served_models()
        )
        assert [result.folder.name for result in outcome.results] == ["s", "S-2", "s-2-2"]
        assert outcome.exit_code == 0
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["S-2", "s", "s-2-2"]


def test_the_good_ones_of_many_are_finished_and_the_bad_ones_listed(tmp_path: Path) -> None:
    disliked = a_study("disliked")
    disliked.image[0, 0, 0] = 13

    def inputs() -> Iterator[Study | Unreadable]:
        yield a_study("first")
        yield Unreadable("lost.png", "lost.png does not exist")
        yield disliked
        yield a_study("last")

    outcome = predict_studies(FakeEnsemble(), inputs(), tmp_path, models=served_models())
    assert [result.folder.name for result in outcome.results] == ["first", "last"]
    assert [failure.origin for failure in outcome.failures] == ["lost.png", "disliked"]
    assert outcome.exit_code == 1
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["first", "last"]


def test_nothing_finished_is_exit_code_2_and_nothing_written(tmp_path: Path) -> None:
    outcome = predict_studies(FakeEnsemble(), [Unreadable("x", "no")], tmp_path / "out", models=served_models())
    assert outcome.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_the_input_folder_is_never_overwritten_by_its_own_result(tmp_path: Path) -> None:
    (tmp_path / "chest").mkdir()
    (tmp_path / "chest" / "IM0001").write_bytes(b"precious")
    engine = FakeEnsemble()
    outcome = predict_studies(engine, [a_study("chest")], tmp_path, models=served_models())
    assert outcome.exit_code == 2
    assert engine.batches == []
    assert (tmp_path / "chest" / "IM0001").read_bytes() == b"precious"


@pytest.fixture(scope="module")
def ensemble(bundles: dict[TaskName, Bundle]) -> Iterator[LocalEnsemble]:
    with LocalEnsemble(bundles, dict.fromkeys(bundles, Choice())) as engine:
        yield engine


def test_the_shipped_networks_read_the_phantom(
    tmp_path: Path, bundles: dict[TaskName, Bundle], ensemble: LocalEnsemble
) -> None:
    phantom = make_labelled_phantom(size=256, slices=6)
    models = local_models(bundles, dict.fromkeys(bundles, Choice()))
    (result,) = predict_studies(ensemble, [phantom.study], tmp_path, models=models).results
    assert {model.bundle_sha256 for model in result.report.models} == {bundle.sha256 for bundle in bundles.values()}
    mask = nib.Nifti1Image.from_filename(result.folder / "lung_mask.nii.gz")
    lung = np.asanyarray(mask.dataobj).transpose(2, 1, 0) > 0
    truth = phantom.lung_mask > 0
    assert 2 * (lung & truth).sum() / (lung.sum() + truth.sum()) > 0.5


def test_the_shipped_networks_read_a_real_volume(tmp_path: Path, data: Path, ensemble: LocalEnsemble) -> None:
    whole = nib.Nifti1Image.from_filename(data / "covid_ct_md_sample" / "P001.nii.gz")
    nib.save(whole.slicer[:, :, 10:13], tmp_path / "p001.nii.gz")
    (study,) = (found.open(Reading()).complete() for found in find_inputs(tmp_path / "p001.nii.gz"))
    (result,) = predict_studies(ensemble, [study], tmp_path / "out", models=served_models()).results
    findings = result.report.findings
    assert findings.slices_with_lung == 3
    lung_ml = result.report.severity.whole.lung_ml
    assert lung_ml is not None
    assert 200 < lung_ml < 2500
    types = nib.Nifti1Image.from_filename(result.folder / "lesion_types.nii.gz")
    assert study.nifti is not None
    np.testing.assert_allclose(np.asarray(types.affine, np.float64), study.nifti.affine)
    assert types.shape == (512, 512, 3)


def test_a_normal_chest_stays_under_one_percent_and_a_sick_one_above_it(
    tmp_path: Path, data: Path, ensemble: LocalEnsemble
) -> None:
    for name in ("normal001", "P001"):
        whole = nib.Nifti1Image.from_filename(data / "covid_ct_md_sample" / f"{name}.nii.gz")
        # Every second slice, from the feet to the shoulders, whose cloth looks like lung and lesion.
        nib.save(whole.slicer[:, :, ::2], tmp_path / f"{name}.nii.gz")
    studies = open_inputs([tmp_path / "normal001.nii.gz", tmp_path / "P001.nii.gz"], Reading())
    normal, sick = predict_studies(ensemble, studies, tmp_path / "out", models=served_models()).results
    assert normal.report.cleaning.lesion_pixels > 0
    involved = normal.report.severity.whole.percent_involved
    assert involved is not None
    assert involved < 0.2
    more = sick.report.severity.whole.percent_involved
    assert more is not None
    assert more > 1.0
    assert normal.report.band == "none"
    assert sick.report.band == "low"
