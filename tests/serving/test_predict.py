"""Studies through an ensemble: in batches, to folders, the bad ones beside the good; then the real networks."""

import hashlib
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from coronanet.engines.base import Engine, EngineBase, Tensors, TensorSpec, check_feeds
from coronanet.engines.bundle import Bundle
from coronanet.engines.predictor import IMAGE, Choice, LocalEnsemble, ensemble_output
from coronanet.engines.streams import EngineStreams
from coronanet.model.assessment import assess
from coronanet.model.errors import UsageError
from coronanet.model.findings import Decisions
from coronanet.model.lungs import Cleaning, keep_lungs
from coronanet.model.phantom import make_labelled_phantom
from coronanet.model.readers import Reading, Unreadable, find_inputs, open_inputs
from coronanet.model.readers.nifti import to_file_grid
from coronanet.model.study import Arriving, Study
from coronanet.model.tasks import TASK_NAMES, TaskName
from coronanet.serving.predict import Result, decide, local_models, predict_studies
from coronanet.serving.report import UNTOLD
from coronanet.serving.result import MASKS
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
        outcome = predict_studies(FakeEnsemble(), [a_study("s"), a_study("S"), a_study("s-2")], tmp_path, models=UNTOLD)
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

    outcome = predict_studies(FakeEnsemble(), inputs(), tmp_path, models=UNTOLD)
    assert [result.folder.name for result in outcome.results] == ["first", "last"]
    assert [failure.origin for failure in outcome.failures] == ["lost.png", "disliked"]
    assert outcome.exit_code == 1
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["first", "last"]


def test_nothing_finished_is_exit_code_2_and_nothing_written(tmp_path: Path) -> None:
    outcome = predict_studies(FakeEnsemble(), [Unreadable("x", "no")], tmp_path / "out", models=UNTOLD)
    assert outcome.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_the_input_folder_is_never_overwritten_by_its_own_result(tmp_path: Path) -> None:
    (tmp_path / "chest").mkdir()
    (tmp_path / "chest" / "IM0001").write_bytes(b"precious")
    engine = FakeEnsemble()
    outcome = predict_studies(engine, [a_study("chest")], tmp_path, models=UNTOLD)
    assert outcome.exit_code == 2
    assert engine.batches == []
    assert (tmp_path / "chest" / "IM0001").read_bytes() == b"precious"


class Hasty(FakeEnsemble):
    """Takes longer for some slices than for others."""

    def infer(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        time.sleep(float(feeds["image"][0, 1, 1] % 5) / 500)
        return super().infer(feeds)


def in_turn(engine: Engine, study: Study) -> tuple[Decisions, Cleaning]:
    """Everything read, then two slices a call, one call after the other, then everything looked at."""
    parts = [engine.infer({"image": study.image[start : start + 2]}) for start in range(0, len(study.image), 2)]
    whole = Decisions.from_outputs({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    return whole, keep_lungs(whole)


def check_same(result: Result, study: Study, decisions: Decisions, cleaning: Cleaning) -> None:
    """A result's masks and figures are those of the decisions."""
    written = [nib.Nifti1Image.from_filename(result.folder / f"{name}.nii.gz") for name in MASKS]
    assert study.nifti is not None
    for image, mask in zip(written, (getattr(decisions, name) for name in MASKS), strict=True):
        np.testing.assert_array_equal(np.asanyarray(image.dataobj), to_file_grid(mask, study.nifti))
    assessment, report = assess(study, decisions), result.report
    assert (report.slices, report.findings, report.severity) == (
        assessment.slices,
        assessment.findings,
        assessment.severity,
    )
    assert (report.risk, report.quality, report.cleaning) == (assessment.risk, assessment.quality, cleaning)
    assert report.input.image_sha256 == hashlib.sha256(study.image.tobytes()).hexdigest()


@pytest.mark.parametrize("axes", ["LPS", "RAI", "PSR"])
def test_reading_deciding_and_looking_beside_each_other_come_to_the_same(tmp_path: Path, axes: str) -> None:
    """Slices that lie in the file feet first, head first, and across it."""
    chest = make_labelled_phantom(size=96, slices=25).study
    image = chest.image.copy()
    image[:, 1, 1] = np.arange(25)
    image[20:, 60:70, :4] = -1000  # cloth
    source = nib.Nifti1Image(image.transpose(2, 1, 0), chest.affine)
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(source.affine), nib.orientations.axcodes2ornt(tuple(axes))
    )
    nib.save(source.as_reoriented(turn.astype(int).tolist()), tmp_path / "chest.nii.gz")
    (study,) = (found.open(Reading()).complete() for found in find_inputs(tmp_path / "chest.nii.gz"))
    np.testing.assert_array_equal(study.image, image)
    with EngineStreams([Hasty(), Hasty(), Hasty()]) as engine:
        inputs = open_inputs([tmp_path / "chest.nii.gz"], Reading())
        (result,) = predict_studies(engine, inputs, tmp_path / "out", models=UNTOLD).results
    check_same(result, study, *in_turn(FakeEnsemble(), study))


def test_slices_that_stop_arriving_fail_their_study_alone_and_leave_nothing(tmp_path: Path) -> None:
    chest = make_labelled_phantom(size=96, slices=12).study
    for name in ("a", "b"):
        nib.save(nib.Nifti1Image(chest.image.transpose(2, 1, 0), chest.affine), tmp_path / f"{name}.nii.gz")
    whole = (tmp_path / "a.nii.gz").read_bytes()
    (tmp_path / "a.nii.gz").write_bytes(whole[: len(whole) // 2])
    engine = FakeEnsemble()
    inputs = open_inputs([tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"], Reading())
    outcome = predict_studies(engine, inputs, tmp_path / "out", models=UNTOLD)
    assert [failure.origin for failure in outcome.failures] == [str(tmp_path / "a.nii.gz")]
    assert "damaged or truncated" in outcome.failures[0].reason
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["b"]


def test_an_engine_that_leaves_slices_out_is_noticed() -> None:
    class Lazy(FakeEnsemble):
        def infer_each(self, feeds: Iterable[Tensors]) -> Iterator[dict[str, NDArray[Any]]]:
            return (self.infer(each) for number, each in enumerate(feeds) if number != 2)

    with pytest.raises(UsageError, match=r"answered for 8 of 10 slices of a"):
        decide(Lazy(), Arriving.whole(a_study()), Stages())


def test_memory_stays_flat_over_slices_and_over_studies(tmp_path: Path) -> None:
    """In a process of its own, whose peak is read and set back between the studies."""
    script = tmp_path / "run.py"
    script.write_text(FLAT)
    peaks = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, check=True).stdout
    short, *long = (int(line) for line in peaks.split())
    slices = 512 * 512
    # 240 slices more are 126 MB of image and 189 MB of masks.
    assert max(long) - short < 16 * slices * 5
    assert max(long[1:]) - long[0] < 8 * slices * 5


#: Prints the peak of the resident memory of a study of 60 slices, and of three of 300, in bytes.
FLAT = """
import sys
from pathlib import Path
import numpy as np
from coronanet.engines.base import EngineBase
from coronanet.engines.machine import peak_memory_bytes
from coronanet.engines.predictor import IMAGE, ensemble_output
from coronanet.model import scratch
from coronanet.model.readers.nifti import to_file_grid
from coronanet.model.study import Arriving, Study
from coronanet.model.tasks import TASK_NAMES
from coronanet.serving.predict import predict_studies
from coronanet.serving.report import UNTOLD

class Thresholds(EngineBase):
    def __init__(self):
        super().__init__((IMAGE,), tuple(ensemble_output(name) for name in TASK_NAMES), 2)
    def infer(self, feeds):
        image = feeds["image"]
        lung = (image < -500).astype(np.uint8)
        lesion = (image < -800).astype(np.uint8)
        odds = np.full((len(image), 1), 0.5, np.float32)
        return {"infected_probability": odds, "lesion_mask": lesion, "lesion_types": lesion, "lung_mask": lung}

def study(slices):
    image = scratch.empty((slices, 512, 512), np.int16)
    def arrivals():
        for index in range(slices):
            image[index] = 40
            image[index, 100:400, 60:220] = image[index, 100:400, 290:450] = -850 + index % 100
            yield index
    affine = np.diag([-0.7, -0.7, 300 / slices, 1.0])
    return Arriving(Study("s", image, "dicom", (300 / slices, 0.7, 0.7), affine), arrivals(), "s")

# The first one warms up.
for number, slices in enumerate((60, 60, 300, 300, 300)):
    Path("/proc/self/clear_refs").write_text("5")
    outcome = predict_studies(Thresholds(), [study(slices)], Path(sys.argv[1]) / "out", models=UNTOLD)
    assert outcome.exit_code == 0, outcome.failures
    if number:
        print(peak_memory_bytes())
"""


@pytest.fixture(scope="module")
def ensemble(bundles: dict[TaskName, Bundle]) -> Iterator[LocalEnsemble]:
    with LocalEnsemble(bundles, dict.fromkeys(bundles, Choice())) as engine:
        yield engine


def test_the_shipped_networks_in_streams_decide_what_they_decide_one_call_after_the_other(
    tmp_path: Path, bundles: dict[TaskName, Bundle]
) -> None:
    chest = make_labelled_phantom(size=256, slices=7).study
    nib.save(nib.Nifti1Image(chest.image.transpose(2, 1, 0), chest.affine), tmp_path / "chest.nii.gz")
    (study,) = (found.open(Reading()).complete() for found in find_inputs(tmp_path / "chest.nii.gz"))
    choices = dict.fromkeys(bundles, Choice(threads=1))
    with LocalEnsemble(bundles, choices) as one, EngineStreams([one, LocalEnsemble(bundles, choices)]) as streams:
        expected = in_turn(one, study)
        inputs = open_inputs([tmp_path / "chest.nii.gz"], Reading())
        (result,) = predict_studies(streams, inputs, tmp_path / "out", models=UNTOLD).results
    check_same(result, study, *expected)


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
    (result,) = predict_studies(ensemble, [study], tmp_path / "out", models=UNTOLD).results
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
    normal, sick = predict_studies(ensemble, studies, tmp_path / "out", models=UNTOLD).results
    assert normal.report.cleaning.lesion_pixels > 0
    involved = normal.report.severity.whole.percent_involved
    assert involved is not None
    assert involved < 0.2
    more = sick.report.severity.whole.percent_involved
    assert more is not None
    assert more > 1.0
    assert normal.report.band == "none"
    assert sick.report.band == "low"
