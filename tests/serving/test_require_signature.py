"""What serves takes only what the required key signed."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from coronanet import cli
from coronanet.engines.bundle import MANIFEST, Bundle
from coronanet.engines.keys import PublicKey, SigningKey, write_key_pair
from coronanet.engines.signature import SIGNATURE
from coronanet.model.tasks import TaskName
from coronanet.serving.addresses import Ports
from coronanet.serving.repository import read_index
from coronanet.serving.server import TritonServer
from cv2 import imwrite

TASK: TaskName = "lung_segmentation"


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return write_key_pair(tmp_path / "keys")


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    return write_key_pair(tmp_path / "stranger")[1]


@pytest.fixture(autouse=True)
def one_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny bundle is all that is to be provided."""
    monkeypatch.setattr("coronanet.export.shipped.TASK_NAMES", (TASK,))
    monkeypatch.setattr("coronanet.engines.slices.data_home", lambda option: option)


@pytest.fixture
def signed(tiny_bundle: Bundle, keys: tuple[Path, Path], tmp_path: Path) -> Path:
    """A folder with the signed tiny bundle."""
    folder = tmp_path / "bundles"
    shutil.copytree(tiny_bundle.path, folder / TASK)
    signature = SigningKey.load(keys[0]).sign((folder / TASK / MANIFEST).read_bytes())
    (folder / TASK / SIGNATURE).write_text(signature.to_json())
    return folder


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    return int(stopped.value.code or 0)


def verbs(folder: Path) -> Mapping[str, list[str]]:
    """The verbs that run bundles, each ready to run."""
    imwrite(str(folder / "slice.png"), np.zeros((64, 64), np.uint8))
    ports = Ports.free()
    numbers = {"--http-port": ports.http, "--grpc-port": ports.grpc, "--metrics-port": ports.metrics}
    predict = ["predict", str(folder / "slice.png"), "--window", "lung", "--out", str(folder / "out")]
    return {
        "repository": ["repository", "--out", str(folder / "triton_repo")],
        "serve": ["serve", *(str(part) for pair in numbers.items() for part in pair)],
        "predict": [*predict, "--backend", "onnxruntime"],
    }


@pytest.mark.parametrize("verb", ["repository", "serve", "predict"])
def test_a_bundle_of_another_signer_is_refused_before_anything_runs(
    verb: str, signed: Path, stranger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--bundles", str(signed), "--require-signature", str(stranger), "--json"]
    assert run(*verbs(tmp_path)[verb], *given) == 1
    assert f"expected key {PublicKey.load(stranger).fingerprint}" in json.loads(capsys.readouterr().out)["error"]
    assert not (tmp_path / "triton_repo").exists()
    assert not (tmp_path / "out").exists()


def test_a_repository_is_filled_with_what_the_key_signed(
    signed: Path, keys: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--bundles", str(signed), "--require-signature", str(keys[1]), "--json"]
    assert run(*verbs(tmp_path)["repository"], *given) == 0
    captured = capsys.readouterr()
    assert read_index(Path(json.loads(captured.out)["repository"])).bundles == {TASK: Bundle.open(signed / TASK).sha256}
    assert f"every bundle is signed with key {PublicKey.load(keys[1]).fingerprint}" in captured.err


def test_serve_starts_what_the_key_signed(
    signed: Path,
    keys: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def start(server: TritonServer) -> None:
        assert read_index(server.repository).bundles.keys() == {TASK}
        raise SystemExit(0)

    monkeypatch.setattr(TritonServer, "start", start)
    monkeypatch.setattr("coronanet.serving.repository.cache_home", lambda: tmp_path / "cache")
    given = ["--bundles", str(signed), "--require-signature", str(keys[1])]
    assert run(*verbs(tmp_path)["serve"], *given) == 0
    assert "every bundle is signed" in capsys.readouterr().err


def test_a_filled_repository_carries_no_signature_and_is_not_taken_for_signed(
    keys: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--repository", str(tmp_path), "--require-signature", str(keys[1])]
    assert run(*verbs(tmp_path)["serve"], *given) == 2
    assert "only bundles are signed" in capsys.readouterr().err


def test_a_server_runs_its_own_networks_whose_signature_cannot_be_required_from_here(
    keys: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--server", "127.0.0.1:8001", "--require-signature", str(keys[1])]
    predict = verbs(tmp_path)["predict"][:-2]
    assert run(*predict, *given) == 2
    assert "leave out --bundles, --backend, --precision and --require-signature" in capsys.readouterr().err
