"""Filling a repository: whole or not served, hashes all the way, nobody else's folders touched."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from coronanet.engines.bundle import Bundle, hash_file
from coronanet.engines.places import ROOT, cache_home
from coronanet.engines.predictor import Choice
from coronanet.model.errors import RefusedError, UsageError
from coronanet.model.tasks import TaskName
from coronanet.serving import repository as module
from coronanet.serving.linter import lint_repository
from coronanet.serving.linter.filled import INDEX
from coronanet.serving.repository import fill_repository, read_index, repository_home
from coronanet.serving.snapshot import take_snapshot
from coronanet.serving.step import REMEDY, open_step
from coronanet.serving.step_file import StepFile
from coronanet.serving.triton_config import plan_steps

ORT: dict[TaskName, Choice] = dict.fromkeys(
    ("classification", "binary_segmentation", "multiclass_segmentation", "lung_segmentation"), Choice()
)


@pytest.fixture
def one(bundles: dict[TaskName, Bundle]) -> dict[TaskName, Bundle]:
    return {"classification": bundles["classification"]}


def _steps(folder: Path) -> dict[str, StepFile]:
    return {
        path.parent.parent.name: StepFile.model_validate_json(path.read_bytes())
        for path in folder.glob("*/1/step.json")
    }


def test_every_step_names_its_file_and_how_this_machine_runs_it(
    bundles: dict[TaskName, Bundle], tmp_path: Path
) -> None:
    choices: dict[TaskName, Choice] = {**ORT, "classification": Choice("onnxruntime", "fp16", threads=3)}
    filled = fill_repository(bundles, tmp_path, choices, threads=2)
    steps = _steps(tmp_path)
    assert steps == {each.name: each.step for each in filled}
    assert list(steps.keys() ^ {step.name for step in plan_steps(bundles)}) == []
    step = steps["classification"]
    assert (step.backend, step.precision, step.threads, step.file) == ("onnxruntime", "fp16", 3, "network.fp16.onnx")
    assert steps["lung_segmentation"].threads == 2
    assert step.bundle_sha256 == bundles["classification"].sha256
    for name, each in steps.items():
        assert hash_file(tmp_path / name / "1" / each.file) == each.sha256


def test_what_depends_on_the_machine_stays_out_of_the_configurations(
    one: dict[TaskName, Bundle], tmp_path: Path
) -> None:
    for name, choice in (("a", Choice("onnxruntime", "fp16")), ("b", Choice("openvino", "bf16", threads=7))):
        fill_repository(one, tmp_path / name, {"classification": choice})
    texts = [
        {str(path.relative_to(tmp_path / name)): path.read_text() for path in (tmp_path / name).rglob("*.pbtxt")}
        for name in ("a", "b")
    ]
    assert texts[0] == texts[1]


def test_the_files_that_the_container_runs_are_there(one: dict[TaskName, Bundle], tmp_path: Path) -> None:
    fill_repository(one, tmp_path, ORT)
    version = tmp_path / "classification" / "1"
    assert {path.name for path in version.glob("*.onnx")} == {"network.fp32.onnx", "network.fp16.onnx"}


def test_an_interrupted_fill_is_not_a_repository(
    one: dict[TaskName, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_repository(one, tmp_path, ORT)

    def out_of_disk(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(module, "_copy", out_of_disk)
    with pytest.raises(OSError, match="no space"):
        fill_repository(one, tmp_path, ORT)
    with pytest.raises(UsageError, match="coronanet repository"):
        read_index(tmp_path)


def test_a_second_fill_replaces_and_leaves_configurations_untouched(
    one: dict[TaskName, Bundle], tmp_path: Path
) -> None:
    fill_repository(one, tmp_path, ORT)
    config = tmp_path / "classification" / "config.pbtxt"
    before = config.stat().st_mtime_ns
    fill_repository(one, tmp_path, {"classification": Choice("openvino", "fp32")})
    assert config.stat().st_mtime_ns == before
    assert _steps(tmp_path)["classification"].backend == "openvino"
    assert not list(tmp_path.rglob(".*"))


def test_steps_that_no_longer_belong_go_and_other_models_stay(bundles: dict[TaskName, Bundle], tmp_path: Path) -> None:
    theirs = tmp_path / "theirs" / "config.pbtxt"
    theirs.parent.mkdir()
    theirs.write_text('name: "theirs"\n')
    (tmp_path / "README.md").write_text("ours")
    fill_repository({name: bundles[name] for name in ("classification", "lung_segmentation")}, tmp_path, ORT)
    fill_repository({"classification": bundles["classification"]}, tmp_path, ORT)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "README.md", "classification", "coronanet", "decide_classification", "preprocess", "theirs",
    ]  # fmt: skip


def test_a_model_of_somebody_else_with_our_name_is_refused(one: dict[TaskName, Bundle], tmp_path: Path) -> None:
    theirs = tmp_path / "preprocess" / "config.pbtxt"
    theirs.parent.mkdir()
    theirs.write_text('name: "preprocess"\n')
    with pytest.raises(UsageError, match="was not written by `coronanet repository`"):
        fill_repository(one, tmp_path, ORT)
    assert theirs.read_text() == 'name: "preprocess"\n'


def test_a_file_that_changed_since_the_bundle_was_opened_is_refused(
    one: dict[TaskName, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tampered = tmp_path / "tampered.onnx"
    tampered.write_bytes(b"not the model")
    monkeypatch.setattr(Bundle, "file", lambda *_: tampered)
    with pytest.raises(RefusedError, match="was changed after export"):
        fill_repository(one, tmp_path / "repository", ORT)


def test_torch_does_not_serve(one: dict[TaskName, Bundle], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be served by torch"):
        fill_repository(one, tmp_path, {"classification": Choice("torch", "fp32")})


def test_no_bundle_is_nothing_to_serve(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="coronanet export"):
        fill_repository({}, tmp_path, {})


@pytest.fixture
def planned(planned_repository: Path, tmp_path: Path) -> Path:
    """A copy, to be broken."""
    return shutil.copytree(planned_repository, tmp_path / "triton_repo")


def _refusals(repository: Path) -> list[str]:
    """What the linter has against a repository as a whole; a server says the first of it."""
    faults = [fault for fault in lint_repository(repository) if fault.rule in ("changed-file", "added-file")]
    with pytest.raises(RefusedError) as refused:
        read_index(repository)
    assert str(refused.value).startswith(f"{repository / faults[0].file} {faults[0].what}: {faults[0].remedy}")
    return [str(fault) for fault in faults]


def test_every_file_of_a_filled_model_is_in_the_index(planned: Path) -> None:
    names = {path.relative_to(planned).as_posix() for path in planned.rglob("*") if path.is_file()}
    assert read_index(planned).files == {name: hash_file(planned / name) for name in names - {INDEX}}


@pytest.mark.parametrize(
    "name",
    [
        "classification/1/sm90-trt11.1-fp32.plan",
        "classification/1/network.fp16.onnx",
        "decide_classification/1/decide.onnx",
        "classification/1/step.json",
        "classification/1/model.py",
        "coronanet_triage/1/model.py",
        "preprocess/config.pbtxt",
        "coronanet/config.pbtxt",
        "classification/configs/onnxruntime.pbtxt",
        "classification/configs/tensorrt.pbtxt",
    ],
)
@pytest.mark.parametrize("change", ["flipped", "gone"])
def test_a_file_with_one_flipped_bit_or_none_at_all_is_refused_by_name(planned: Path, name: str, change: str) -> None:
    read_index(planned)
    file = planned / name
    data = file.read_bytes()
    file.unlink()
    if change == "flipped":
        # The last byte: of a plan behind its header, of a text the end of its last line.
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert f"{name}: is missing or was changed: {REMEDY} [changed-file]" in _refusals(planned)
    file.write_bytes(data)
    read_index(planned)


@pytest.mark.parametrize(
    ("added", "reported", "expected"),
    [
        ("classification/2/model.py", "classification/2", "1, config.pbtxt, configs"),
        ("theirs/1/model.onnx", "theirs", "binary_segmentation, classification, coronanet, coronanet_triage, decide_"),
        ("classification/1/__pycache__/model.pyc", "classification/1/__pycache__", "model.py, network.fp16.onnx, "),
        ("coronanet/configs/other.pbtxt", "coronanet/configs/other.pbtxt", "onnxruntime.pbtxt, tensorrt.pbtxt"),
    ],
)
def test_what_was_added_is_refused_by_name(planned: Path, added: str, reported: str, expected: str) -> None:
    (planned / "README.md").write_text("Triton reads no file beside the models")
    read_index(planned)
    file = planned / added
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("")
    (said,) = _refusals(planned)
    assert said.startswith(f"{reported}: was not put there by `coronanet repository`: expected only {expected}")
    assert said.endswith(": move it out of the repository [added-file]")


def test_an_empty_version_of_the_ensemble_is_refused(planned: Path) -> None:
    """Triton needs no file in it to serve it as the newest."""
    (planned / "coronanet" / "2").mkdir()
    assert [said.split(":")[0] for said in _refusals(planned)] == ["coronanet/2"]


def test_an_index_names_no_file_outside_of_its_repository(planned: Path) -> None:
    path = planned / INDEX
    path.write_text(path.read_text().replace('"classification/config.pbtxt"', '"../config.pbtxt"'))
    with pytest.raises(
        RefusedError, match=r"repository\.json is not valid .*\.\./config\.pbtxt is not in the repository"
    ):
        read_index(planned)


def test_the_server_copies_what_the_index_names_and_nothing_that_changed_meanwhile(
    planned: Path, tmp_path: Path
) -> None:
    index = read_index(planned)
    (planned / "classification" / "2").mkdir()
    (planned / "theirs").mkdir()
    snapshot = take_snapshot(planned, index, tmp_path / "first")
    copied = {path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file()}
    used = {
        f"{step.parent.relative_to(planned)}/{json.loads(step.read_text())['file']}"
        for step in planned.glob("*/1/step.json")
    }
    networks = {name for name in index.files if name.endswith((".onnx", ".plan"))}
    caches = {name for name in copied if name.endswith("__pycache__")}
    assert copied - caches == {INDEX, *index.files} - (networks - used)
    assert not (snapshot / "classification" / "2").exists()
    assert not (snapshot / "theirs").exists()
    (planned / "classification" / "config.pbtxt").write_text("")
    with pytest.raises(RefusedError, match=r"classification/config\.pbtxt was changed while the server started"):
        take_snapshot(planned, index, tmp_path / "second")


def test_the_code_of_another_version_is_refused(
    one: dict[TaskName, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as older:
        older.setattr(module, "_template", lambda _: "class TritonPythonModel: ...\n")
        fill_repository(one, tmp_path, ORT)
        read_index(tmp_path)
    with pytest.raises(RefusedError, match=r"model\.py is of another version of coronanet: .*`coronanet repository`"):
        read_index(tmp_path)


def test_a_step_opens_only_the_file_of_its_bundle(one: dict[TaskName, Bundle], tmp_path: Path) -> None:
    fill_repository(one, tmp_path, ORT)
    version = tmp_path / "classification" / "1"
    with open_step(version) as engine:
        assert [spec.name for spec in engine.outputs] == ["logits"]
    model = version / "network.fp32.onnx"
    model.write_bytes(model.read_bytes() + b"\0")
    with pytest.raises(RefusedError, match="its hash is not the bundle's"):
        open_step(version)
    step = version / "step.json"
    whole = step.read_text()
    for broken, match in (
        ("{", "JSONDecodeError"),
        ("[]", "TypeError"),
        (whole.replace('"threads"', '"yarns"'), "KeyError: 'threads'"),
    ):
        step.write_text(broken)
        with pytest.raises(UsageError, match=f"is not a valid step: {match}"):
            open_step(version)
    step.unlink()
    with pytest.raises(UsageError, match="coronanet repository"):
        open_step(version)


def test_a_model_process_imports_no_more_than_it_needs() -> None:
    heavy = (
        "import sys, coronanet.serving.step; print({'pydantic', 'torch', 'openvino', 'tritonclient'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_repository_is_the_checkouts_else_the_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert repository_home(tmp_path) == tmp_path
    assert repository_home(None) == ROOT / "triton_repo"
    assert repository_home(None, standard=False) == cache_home() / "triton_repo"
    assert repository_home(tmp_path, standard=False) == tmp_path
    monkeypatch.setattr(module, "ROOT", tmp_path)
    assert repository_home(None) == cache_home() / "triton_repo"
