"""`export --sign` and `verify --key`: one signs, the other says whose it is."""

import json
import shutil
from pathlib import Path

import pytest
from coronanet.cli import main
from coronanet.engines.bundle import CARD, MANIFEST, Bundle, PlanTarget
from coronanet.engines.keys import PublicKey, write_key_pair
from coronanet.engines.signature import SIGNATURE
from coronanet.export import shipped
from coronanet.export.shipped import provide_bundles
from coronanet.model.errors import RefusedError, UsageError
from coronanet.model.tasks import TaskName

TASK: TaskName = "lung_segmentation"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_key_pair(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    _, public = write_key_pair(tmp_path_factory.mktemp("stranger"))
    return public


@pytest.fixture(scope="module")
def exported(tiny_source: Path, keys: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `coronanet export --sign` wrote the tiny bundle into."""
    folder = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("coronanet.engines.slices.data_home", lambda option: option)
        assert run("export", str(tiny_source), "--out", str(folder), "--sign", str(keys[0])) == 0
    return folder


@pytest.fixture(autouse=True)
def synthetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parity looks at the phantom, which is quick."""
    monkeypatch.setattr("coronanet.engines.slices.data_home", lambda option: option)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    return int(stopped.value.code or 0)


def test_export_signs_what_it_publishes(exported: Path, keys: tuple[Path, Path]) -> None:
    bundle = Bundle.open(exported / TASK, key=PublicKey.load(keys[1]))
    assert (bundle.path / SIGNATURE).is_file()
    assert "PRIVATE" not in (bundle.path / SIGNATURE).read_text()


def test_an_export_without_a_key_is_not_signed(tiny_bundle: Bundle) -> None:
    assert tiny_bundle.signature is None
    assert not (tiny_bundle.path / SIGNATURE).exists()


def test_a_key_that_cannot_be_used_stops_an_export_before_it_begins(
    tiny_source: Path, keys: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run("export", str(tiny_source), "--out", str(out), "--sign", str(tmp_path / "nowhere.pem")) == 2
    assert "no key at" in capsys.readouterr().err
    assert not out.exists()


def test_verify_says_who_signed(exported: Path, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    name = PublicKey.load(keys[1]).fingerprint
    assert run("verify", str(exported / TASK), "--key", str(keys[1])) == 0
    assert f"signed with key {name}: the signature fits" in capsys.readouterr().out
    assert run("verify", str(exported / TASK), "--key", str(keys[1]), "--json") == 0
    assert json.loads(capsys.readouterr().out)["signature"] == {"key": name, "checked": True}


def test_verify_without_a_key_reports_a_signature_as_a_claim(
    exported: Path, keys: tuple[Path, Path], tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    name = PublicKey.load(keys[1]).fingerprint
    assert run("verify", str(exported / TASK)) == 0
    assert f"says that key {name} signed it, which was not checked" in capsys.readouterr().out
    assert run("verify", str(exported / TASK), "--json") == 0
    assert json.loads(capsys.readouterr().out)["signature"] == {"key": name, "checked": False}
    assert run("verify", str(tiny_bundle.path), "--json") == 0
    assert json.loads(capsys.readouterr().out)["signature"] is None


def test_verify_with_another_key_is_one_line_and_exit_code_1(
    exported: Path, keys: tuple[Path, Path], stranger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("verify", str(exported / TASK), "--key", str(stranger), "--json") == 1
    captured = capsys.readouterr()
    theirs, ours = (PublicKey.load(path).fingerprint for path in (keys[1], stranger))
    assert f"signed with key {theirs}, expected key {ours}" in json.loads(captured.out)["error"]
    assert len(captured.err.splitlines()) == 1


def test_with_a_key_nothing_is_exported_on_first_use(exported: Path, keys: tuple[Path, Path]) -> None:
    with pytest.raises(UsageError, match=r"no bundle at .*classification.*coronanet export classification --sign"):
        provide_bundles(exported, key=PublicKey.load(keys[1]))
    assert [path.name for path in exported.iterdir()] == [TASK]


def test_with_a_key_the_usual_place_is_taken_as_it_stands(
    exported: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipped, "TASK_NAMES", (TASK,))
    monkeypatch.setattr(shipped, "bundle_home", lambda option: exported)
    before = Bundle.open(exported / TASK).sha256
    assert provide_bundles(None, key=PublicKey.load(keys[1]))[TASK].sha256 == before


def test_a_signed_bundle_and_one_with_plans_are_never_replaced_on_first_use(
    exported: Path,
    tiny_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Neither holds the weights that ship."""
    shutil.copytree(tiny_bundle.path, tmp_path / TASK)
    (tmp_path / TASK / "plans").mkdir()
    shutil.copyfile(tiny_bundle.path / CARD, tmp_path / TASK / "plans" / "a.plan")
    target = PlanTarget(runtime="tensorrt", version="11.1.0", compute_capability="8.6", gpu="A10")
    card = next(record for record in tiny_bundle.manifest.files if record.kind == "card")
    plan = card.model_copy(update={"path": "plans/a.plan", "kind": "plan", "precision": "fp32", "target": target})
    manifest = tiny_bundle.manifest.model_copy(update={"files": (*tiny_bundle.manifest.files, plan)})
    (tmp_path / TASK / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    monkeypatch.setattr(shipped, "export_all", lambda *_, **__: pytest.fail("replaced"))
    for home in (exported, tmp_path):
        monkeypatch.setattr(shipped, "bundle_home", lambda _, home=home: home)
        assert provide_bundles(None, tasks=[TASK])[TASK].path == home / TASK
        assert f"`coronanet export {TASK}` replaces it" in "".join(capsys.readouterr().err.splitlines())


def test_one_unsigned_bundle_among_signed_ones_is_refused(
    exported: Path, keys: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipped, "TASK_NAMES", (TASK,))
    shutil.copytree(exported, tmp_path, dirs_exist_ok=True)
    (tmp_path / TASK / SIGNATURE).unlink()
    with pytest.raises(RefusedError, match=f"{TASK} is not signed"):
        provide_bundles(tmp_path, key=PublicKey.load(keys[1]))
