"""A network of the user's own: imported because it was named, exported as the others are, and nothing of it trusted."""

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from coronanet.cli import main
from coronanet.engines import ranking
from coronanet.engines.bundle import CARD, Bundle
from coronanet.engines.predictor import Choice, LocalEnsemble, Predictor
from coronanet.engines.slices import phantom_slices
from coronanet.export.options import Wanted
from coronanet.export.own_network import import_network, own_source
from coronanet.export.pipeline import export_bundle
from coronanet.model.card import Card, Network
from coronanet.model.errors import UsageError
from safetensors.torch import save_file

CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, features, outputs=1):
        super().__init__()
        self.first = nn.Conv2d(1, features, 3, padding=1)
        self.last = nn.Conv2d(features, outputs, 1)

    def forward(self, pixels):
        return self.last(self.first(pixels).relu())

def build(card):
    return Net(card.network.parameters["features"])

class Shifted(Net):
    def forward(self, pixels):
        return super().forward(pixels) + 1

def build_shifted(card):
    return Shifted(4)

class Pair(Net):
    def forward(self, pixels):
        return [super().forward(pixels)]

class Flat(Net):
    def forward(self, pixels):
        return super().forward(pixels).mean((2, 3))

class Broken(Net):
    def forward(self, pixels):
        return super().forward(pixels.flatten(1))

class Branching(Net):
    def forward(self, pixels):
        if pixels.sum() > 0:
            return super().forward(pixels)
        return super().forward(-pixels)

class Rare(Net):
    def forward(self, pixels):
        return torch.special.bessel_j0(super().forward(pixels))

class TwoAtATime(Net):
    def forward(self, pixels):
        return super().forward(pixels.view(2, 1, 64, 64))

def wide(card):
    return Net(8)

def failing(card):
    return card.network.parameters["colour"]

def listing(card):
    return [Net(4)]

NUMBER = 3
for kind in (Pair, Flat, Broken, Branching, Rare, TwoAtATime):
    globals()[kind.__name__.lower()] = lambda card, kind=kind: kind(4)
"""


@pytest.fixture(scope="module")
def folder(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the user has, in the current folder: the code of a network, its weights and its card."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_nets.py").write_text(CODE, encoding="utf-8")
    (folder / "own_broken.py").write_text("import no_such_package\n", encoding="utf-8")
    (folder / "own_script.py").write_text("raise SystemExit(0)\n", encoding="utf-8")
    card = Card.load(tiny_source / CARD)
    card = card.model_copy(update={"network": Network(family="own", parameters={"features": 4})})
    (folder / CARD).write_text(card.to_json(), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [*sys.path])
        torch.manual_seed(0)
        network = import_network("own_nets:build")(card)
        save_file(network.state_dict(), folder / "w.safetensors")
        torch.save(network.state_dict(), folder / "w.pt")
        yield folder
    for name in ("own_nets", "own_broken", "own_script"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def own_bundle(folder: Path) -> Bundle:
    """The bundle of the user's network as export leaves it, opened by somebody who does not name the code."""
    with own_source("own_nets:build", folder / "w.safetensors", folder / CARD) as (source, builder):
        made = export_bundle(source, folder / "bundles", phantom_slices(), Wanted(half=True, builder=builder))
    return Bundle.open(made.path)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    code = stopped.value.code
    assert isinstance(code, int)
    return code


def export(folder: Path, network: str, *arguments: str) -> int:
    given = ["--network", network, "--weights", str(folder / "w.safetensors"), "--card", str(folder / CARD)]
    return run("export", *given, *arguments)


def verdicts(bundle: Bundle) -> dict[str, tuple[str, str]]:
    """What each graph was compared with, and the verdict."""
    return {
        record.path: (record.evidence.reference, record.evidence.verdict)
        for record in bundle.manifest.files
        if record.evidence is not None
    }


def test_it_passes_the_gates_of_every_network_and_leaves_its_code_at_home(own_bundle: Bundle) -> None:
    graphs = ("preprocess.onnx", "decide.onnx", "network.fp32.onnx", "network.fp16.onnx")
    assert verdicts(own_bundle) == dict.fromkeys(graphs, ("torch fp32", "passed"))
    assert own_bundle.card.network.parameters == {"features": 4}
    assert not own_bundle.has_code
    contents = b"".join(own_bundle.file(record).read_bytes() for record in own_bundle.manifest.files)
    assert b"own_nets" not in contents


def test_the_command_exports_it_with_slices_of_the_users_own(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data" / "images").mkdir(parents=True)
    for name in ("one", "three", "two"):
        picture = np.random.default_rng(0).integers(0, 255, (80, 96), np.uint8)
        cv2.imwrite(str(tmp_path / "data" / "images" / f"{name}.png"), picture)
    data = ("--data", str(tmp_path / "data"), "--window", "-1350", "150")
    assert export(folder, "own_nets:build", "--out", str(tmp_path / "out"), *data, "--json") == 0
    (made,) = json.loads(capsys.readouterr().out)["bundles"]
    # Of the three: the one between is for the ranges of int8.
    evidence: list[dict[str, Any]] = [file["evidence"] for file in made["files"] if "evidence" in file]
    assert {each["images"] for each in evidence} == {"2 slices of the user's own"}
    # A way that this CPU cannot run, such as bf16 on one that has none, has no evidence.
    assert all(way["evidence"] or way["verdict"] == "not_run" for way in made["ranking"])
    assert {way["evidence"]["reference"] for way in made["ranking"] if way["evidence"]} == {"torch fp32"}


def test_verify_runs_torch_again_where_the_code_is_named(
    own_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("verify", str(own_bundle.path), "--network", "own_nets:build", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["verdict"], answer["reference"]) == ("passed", "torch fp32")


def test_verify_without_the_code_says_what_it_compares_with_and_imports_nothing(
    own_bundle: Bundle, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "own_nets")
    assert run("verify", str(own_bundle.path), "--json") == 0
    assert "own_nets" not in sys.modules
    captured = capsys.readouterr()
    answer = json.loads(captured.out)
    assert (answer["verdict"], answer["reference"]) == ("passed", "onnxruntime fp32")
    references = {file["path"]: file["evidence"]["reference"] for file in answer["files"] if "evidence" in file}
    assert references.pop("network.fp32.onnx") == "torch fp32"
    assert set(references.values()) == {"onnxruntime fp32"}
    (warning,) = [line for line in captured.err.splitlines() if line.startswith("warning: ")]
    assert "keeps the parity with torch that its export recorded" in warning


def test_verify_with_other_code_than_was_exported_is_refused(
    own_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("verify", str(own_bundle.path), "--network", "own_nets:build_shifted") == 1
    assert "network.fp32.onnx does not pass parity: " in capsys.readouterr().err


def test_verify_takes_no_code_for_a_network_of_this_project(
    tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    assert run("verify", str(tiny_bundle.path), "--network", "own_nets:build") == 2
    assert "is a unet of this project: leave out --network" in capsys.readouterr().err


def test_what_serves_needs_no_code(own_bundle: Bundle) -> None:
    ranked = ranking.rank(own_bundle, phantom_slices())
    assert {way.evidence.reference for way in ranked.ways if way.evidence} == {"onnxruntime fp32"}
    image = phantom_slices().images[4][None]
    with (
        LocalEnsemble({"lung_segmentation": own_bundle}, {"lung_segmentation": ranked.best}) as engine,
        Predictor.open(own_bundle, Choice("onnxruntime", "fp32")) as predictor,
    ):
        mask = engine.infer({"image": image})["lung_mask"]
        assert np.mean(mask == predictor.predict(image)) > 0.99


def test_torch_without_the_code_says_who_takes_it(own_bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="whose code no bundle carries: torch runs it in `coronanet export`"):
        Predictor.open(own_bundle, Choice("torch", "fp32"))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("own_nets", "no network 'own_nets': expected package.module:function"),
        (":build", "no network ':build': expected package.module:function"),
        ("no_such_nets:build", "no module 'no_such_nets' among the installed ones nor in .*expected package.module"),
        ("own_nets.deeper:build", r"own_nets\.deeper.*expected package\.module:function"),
        ("own_broken:build", r"own_broken cannot be imported: .*No module named 'no_such_package' .*own_broken.py, l"),
        ("own_script:build", r"own_script cannot be imported: SystemExit: 0 .*own_script\.py, line 1"),
        ("own_nets:draw", r"own_nets \(.*own_nets\.py\) has no function 'draw': expected package\.module:function"),
        ("own_nets:NUMBER", "has no function 'NUMBER'"),
        ("own_nets:listing", r"own_nets:listing returns list: expected a torch\.nn\.Module"),
        ("own_nets:failing", r"own_nets:failing fails: KeyError: 'colour' \(.*own_nets\.py, line \d+\)"),
        ("own_nets:wide", r"first is first\.bias: expected \[8\], got \[4\]"),
        ("own_nets:pair", r"own_nets:pair gives list: expected logits float32 \[2, 1, 64, 64\] of lung_segmentation"),
        ("own_nets:flat", r"own_nets:flat gives float32 \[2, 1\]: expected logits float32 \[2, 1, 64, 64\]"),
        ("own_nets:broken", r"cannot take pixels float32 \[2, 1, 64, 64\]: RuntimeError.*own_nets\.py, line \d+\)"),
    ],
)
def test_what_does_not_fit_is_one_line(folder: Path, network: str, message: str) -> None:
    with (
        pytest.raises(UsageError, match=message) as raised,
        own_source(network, folder / "w.safetensors", folder / CARD),
    ):
        pass
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("own_nets:rare", r"ONNX has no operator for prims\.bessel_j0"),
        (
            "own_nets:branching",
            r"on the values of a tensor at .*own_nets\.py, line \d+: `if pixels\.sum\(\) > 0:`",
        ),
        ("own_nets:twoatatime", "its code fixes axis 0 at 2: take sizes from the tensor"),
    ],
)
def test_what_cannot_be_exported_is_named_and_nothing_is_published(
    folder: Path, network: str, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with (
        own_source(network, folder / "w.safetensors", folder / CARD) as (source, builder),
        pytest.raises(UsageError, match=rf"cannot be exported: .*{message}.*#unsupported-operator\)$") as raised,
    ):
        export_bundle(source, tmp_path / "out", phantom_slices(), Wanted(builder=builder))
    assert "\n" not in str(raised.value)
    assert capfd.readouterr().err == "", "torch prints whole graphs"
    assert list((tmp_path / "out").iterdir()) == []


def test_pickled_weights_are_refused_with_the_line_that_converts_them(folder: Path) -> None:
    with (
        pytest.raises(UsageError, match=r"is a pickle.*python -c .*weights_only=True\), 'w\.safetensors'\)\"$"),
        own_source("own_nets:build", folder / "w.pt", folder / CARD),
    ):
        pass


def test_the_line_that_converts_pickled_weights_works(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes((folder / "w.pt").read_bytes())
    with pytest.raises(UsageError) as raised, own_source("own_nets:build", tmp_path / "w.pt", folder / CARD):
        pass
    _, _, command = str(raised.value).partition("convert it with python ")
    subprocess.run([sys.executable, *shlex.split(command)], cwd=tmp_path, check=True)
    assert (tmp_path / "w.safetensors").read_bytes() == (folder / "w.safetensors").read_bytes()


@pytest.mark.parametrize("missing", ["--network", "--weights", "--card"])
def test_one_of_the_three_alone_is_wrong_use(missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"--network": "own_nets:build", "--weights": "w.safetensors", "--card": "card.json"}
    del given[missing]
    assert run("export", *(word for pair in given.items() for word in pair), "--out", "nowhere") == 2
    assert f"together: {missing} is missing" in capsys.readouterr().err


def test_a_card_of_another_family_is_wrong_use(folder: Path, tiny_source: Path) -> None:
    with (
        pytest.raises(UsageError, match=r'says network\.family "unet": expected "own" beside --network own_nets:build'),
        own_source("own_nets:build", folder / "w.safetensors", tiny_source / CARD),
    ):
        pass


def test_it_needs_a_place_and_no_other_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(folder, "own_nets:build") == 2
    assert "export with --out DIR" in capsys.readouterr().err
    assert export(folder, "own_nets:build", "classification") == 2
    assert "leave out classification" in capsys.readouterr().err


def test_a_folder_whose_card_says_own_is_exported_with_its_code_alone(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / CARD).write_bytes((folder / CARD).read_bytes())
    (tmp_path / "weights.safetensors").write_bytes((folder / "w.safetensors").read_bytes())
    assert run("export", str(tmp_path), "--out", str(tmp_path / "out")) == 2
    assert "--network package.module:function" in capsys.readouterr().err


def test_no_file_here_takes_the_place_of_an_installed_package(folder: Path) -> None:
    (folder / "safetensors.py").write_text("def build(card): raise RuntimeError\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"safetensors \(.*site-packages.*\) has no function 'build'"):
        import_network("safetensors:build")
