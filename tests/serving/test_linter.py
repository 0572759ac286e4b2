"""The linter: every seeded fault is named, in the model where it is, and a sound repository has none."""

import struct
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from coronanet.model.errors import MissingPackageError, UsageError
from coronanet.serving.linter import Fault, lint_repository
from coronanet.serving.linter.files import STEP
from coronanet.serving.linter.filled import INDEX
from onnx import TensorProto, helper

SCALE = """
name: "scale"
backend: "onnxruntime"
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: 4 dims: -1 }
output { name: "y" data_type: TYPE_FP32 dims: 4 dims: -1 }
dynamic_batching { default_queue_policy { max_queue_size: 9 } }
"""
LABEL = """
name: "label"
max_batch_size: 4
input { name: "scores" data_type: TYPE_FP32 dims: 4 dims: 3 }
input { name: "image" data_type: TYPE_FP32 dims: 4 dims: -1 }
output { name: "label" data_type: TYPE_FP32 dims: 4 dims: 3 }
default_model_filename: "label.onnx"
"""
CHAIN = """
name: "chain"
platform: "ensemble"
max_batch_size: 4
input { name: "image" data_type: TYPE_FP32 dims: 4 dims: -1 }
output { name: "answer" data_type: TYPE_FP32 dims: 4 dims: 3 }
ensemble_scheduling {
  step {
    model_name: "scale" model_version: -1
    input_map { key: "x" value: "image" } output_map { key: "y" value: "scaled" }
  }
  step {
    model_name: "label" model_version: -1
    input_map { key: "scores" value: "scaled" } input_map { key: "image" value: "image" }
    output_map { key: "label" value: "answer" }
  }
}
"""
WARM_UP = """
model_warmup { name: "w" batch_size: 8 inputs { key: "x" value { data_type: TYPE_FP32 dims: 4 dims: 2 } } }
"""
#: The first 28 bytes of a plan of TensorRT 11.1.0.106.
PLAN = struct.pack("<4sI16x4B", b"ftrt", 0, 11, 1, 0, 106)


def write_onnx(path: Path, inputs: dict[str, list[int | str]], output: str, *, shape: list[int | str] | None) -> None:
    """A network that adds up its inputs; with None for its ``shape`` the output's number of axes is not said."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, axes) for name, axes in inputs.items()]
    node = helper.make_node("Sum", list(inputs), [output])
    result = helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)
    model = helper.make_model(helper.make_graph([node], "g", values, [result]))
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two networks and an ensemble of them, as somebody else would write it."""
    root = tmp_path / "models"
    write_onnx(root / "scale" / "1" / "model.onnx", {"x": ["N", 4, "W"]}, "y", shape=["N", 4, "W"])
    inputs: dict[str, list[int | str]] = {"scores": ["N", 4, 3], "image": ["N", 4, "W"]}
    write_onnx(root / "label" / "1" / "label.onnx", inputs, "label", shape=["N", 4, 3])
    (root / "chain" / "1").mkdir(parents=True)
    for name, text in (("scale", SCALE), ("label", LABEL), ("chain", CHAIN)):
        (root / name / "config.pbtxt").write_text(text)
    return root


def edit(model: str, old: str, new: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        path = root / model / "config.pbtxt"
        text = path.read_text()
        assert old in text, old
        path.write_text(text.replace(old, new))

    return change


def remove(name: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        path = root / name
        if path.is_file():
            path.unlink()
        else:
            path.rmdir()

    return change


def fixed_batch(root: Path) -> None:
    write_onnx(root / "scale" / "1" / "model.onnx", {"x": [1, 4, "W"]}, "y", shape=["N", 4, "W"])


def no_model(root: Path) -> None:
    (root / "label" / "1" / "label.onnx").write_bytes(b"PK a zip")


def no_step(root: Path) -> None:
    config = root / "chain" / "config.pbtxt"
    config.write_text(CHAIN.partition("ensemble_scheduling")[0] + "ensemble_scheduling {}")


def no_backend(root: Path) -> None:
    edit("scale", 'backend: "onnxruntime"', "")(root)
    (root / "scale" / "1" / "model.onnx").rename(root / "scale" / "1" / "model.bin")


def step_without_a_file(root: Path) -> None:
    edit("scale", "onnxruntime", "python")(root)
    (root / "scale" / "1" / "model.py").touch()
    (root / "scale" / "1" / STEP).write_text("{}")


def broken_index(root: Path) -> None:
    (root / INDEX).parent.mkdir(parents=True)
    (root / INDEX).write_text("{}")


def of_a_plan(*heads: bytes, keys: tuple[str, ...] = ("9.0", "8.6")) -> Callable[[Path], None]:
    """Makes `scale` a TensorRT model with these plans."""

    def change(root: Path) -> None:
        config = root / "scale" / "config.pbtxt"
        named = "".join(
            f'cc_model_filenames {{ key: "{key}" value: "{index}.plan" }}\n'
            for index, key in enumerate(keys[: len(heads)])
        )
        config.write_text(SCALE.replace('"onnxruntime"', '"tensorrt"') + named)
        for index, head in enumerate(heads):
            (root / "scale" / "1" / f"{index}.plan").write_bytes(head + bytes(100))

    return change


def rules(faults: list[Fault]) -> list[tuple[str, str]]:
    return [(fault.model, fault.rule) for fault in faults]


def test_a_sound_repository_has_no_fault(repository: Path) -> None:
    assert lint_repository(repository) == []


FAULTS: dict[str, tuple[Callable[[Path], None], str, str, str]] = {
    "a configuration that is none": (
        edit("scale", "max_batch_size: 8", "max_batch: 8"),
        "scale", "config-syntax", 'has no field named "max_batch"',
    ),
    "another name than the folder": (edit("label", '"label"\nmax', '"labels"\nmax'), "label", "model-name", "folder"),
    "an input that the file does not have": (
        edit("scale", 'input { name: "x"', 'input { name: "xx"'), "scale", "input-name", 'write name: "x"',
    ),
    "an input that only the file has": (
        edit("label", 'input { name: "image" data_type: TYPE_FP32 dims: 4 dims: -1 }', ""),
        "label", "input-missing", 'needs the input "image"',
    ),
    "an output that the file does not have": (
        edit("scale", 'output { name: "y"', 'output { name: "z"'), "scale", "output-name", 'write name: "y"',
    ),
    "another type than the file": (
        edit("scale", 'name: "x" data_type: TYPE_FP32', 'name: "x" data_type: TYPE_FP16'),
        "scale", "dtype", "write data_type: TYPE_FP32",
    ),
    "other axes than the file": (
        edit("label", '"scores" data_type: TYPE_FP32 dims: 4 dims: 3', '"scores" data_type: TYPE_FP32 dims: 3'),
        "label", "dims", "write dims: [4, 3]",
    ),
    "a batch that the file does not take": (fixed_batch, "scale", "batch", "export it with a dynamic batch axis"),
    "a file that is missing": (remove("label/1/label.onnx"), "label", "missing-file", "label/1/label.onnx"),
    "a file that is not ONNX": (no_model, "label", "not-onnx", "not an ONNX file"),
    "a file at an absolute path": (
        edit("label", '"label.onnx"', '"/models/x.onnx"'), "label", "outside-file", "the model file /models/x.onnx",
    ),
    "a file of another folder": (
        edit("label", '"label.onnx"', '"../x.onnx"'), "label", "outside-file", "put the file into label/1/",
    ),
    "a plan at an absolute path": (
        edit("scale", '"onnxruntime"', '"tensorrt" cc_model_filenames { key: "9.0" value: "/models/x.plan" }'),
        "scale", "outside-file", "names the model file /models/x.plan",
    ),
    "a version folder that is missing": (remove("chain/1"), "chain", "no-version", "make chain/1/"),
    "a version that the policy asks for": (
        edit("scale", "max_batch_size: 8", "max_batch_size: 8 version_policy { specific { versions: [1, 2] } }"),
        "scale", "version-missing", "asks for 2",
    ),
    "a version that is not served": (
        edit("chain", '"label" model_version: -1', '"label" model_version: 3'), "chain", "step-version", "served: 1",
    ),
    "a model that is not there": (
        edit("chain", 'model_name: "scale"', 'model_name: "scales"'), "chain", "missing-model", 'model_name: "scale"',
    ),
    "an input that nothing feeds": (
        edit("chain", 'input_map { key: "image" value: "image" }', ""), "chain", "unmapped-input", 'the input "image"',
    ),
    "a map of an input that is not there": (
        edit("chain", 'key: "x"', 'key: "xs"'), "chain", "unknown-input", 'write key: "x"',
    ),
    "a map of an output that is not there": (
        edit("chain", 'key: "y"', 'key: "ys"'), "chain", "unknown-output", 'write key: "y"',
    ),
    "a tensor that nothing writes": (
        edit("chain", 'key: "scores" value: "scaled"', 'key: "scores" value: "scald"'),
        "chain", "unwritten-tensor", 'is "scaled" meant?',
    ),
    "an output that nothing reads": (
        edit("chain", 'key: "scores" value: "scaled"', 'key: "scores" value: "image"'),
        "chain", "unused-output", 'nothing reads "scaled"',
    ),
    "an input that nothing reads": (
        edit("chain", "output {", 'input { name: "mask" data_type: TYPE_FP32 dims: 4 }\noutput {'),
        "chain", "unused-input", '"mask"',
    ),
    "an output that nothing writes": (
        edit("chain", "ensemble_sch", 'output { name: "area" data_type: TYPE_FP32 dims: 1 }\nensemble_sch'),
        "chain", "unwritten-tensor", '"area"',
    ),
    "a tensor that two write": (
        edit("chain", 'key: "y" value: "scaled"', 'key: "y" value: "answer"'), "chain", "two-writers", '"answer"',
    ),
    "a cycle": (
        edit("chain", 'key: "x" value: "image"', 'key: "x" value: "answer"'),
        "chain", "cycle", "1 (scale), 2 (label) wait for each other",
    ),
    "an ensemble that runs itself": (
        edit("chain", 'model_name: "scale"', 'model_name: "chain"'), "chain", "cycle", "itself",
    ),
    "a type that the next step does not take": (
        edit("chain", '"image" data_type: TYPE_FP32', '"image" data_type: TYPE_INT16'),
        "chain", "step-dtype", '"image" is INT16 from the ensemble\'s input, but FP32 for step 1 (scale)',
    ),
    "axes that the next step does not take": (
        edit("chain", '"answer" data_type: TYPE_FP32 dims: 4 dims: 3', '"answer" data_type: TYPE_FP32 dims: 4 dims: 5'),
        "chain", "step-dims", "FP32 [?, 4, 3] from step 2 (label)",
    ),
    "a batch that a step does not take": (
        edit("chain", "max_batch_size: 4", "max_batch_size: 8"), "chain", "batch", "write max_batch_size: 4",
    ),
    "a queue limit that makes clients wait for ever": (
        edit("label", "default", "dynamic_batching { default_queue_policy { max_queue_size: 1 } }\ndefault"),
        "label", "queue-limit", "not the first step of chain",
    ),
    "a warm-up of another shape": (
        edit("scale", "dyn", 'model_warmup { inputs { key: "x" value { data_type: TYPE_FP32 dims: 4 } } }\ndyn'),
        "scale", "warm-up", "x as FP32 [4]",
    ),
    "a warm-up that lacks an input": (
        edit("label", "default", "model_warmup { batch_size: 1 }\ndefault"), "label", "warm-up", "for the input image",
    ),
    "a warm-up of more than a batch": (
        edit("scale", "dyn", WARM_UP.replace("8", "9") + "dyn"), "scale", "warm-up", "batch_size 9, more than 8",
    ),
    "a warm-up that is skipped": (
        edit("scale", "dyn", WARM_UP.replace("batch_size: 8", "") + "dyn"), "scale", "warm-up", "Triton skips it",
    ),
    "a cache that mixes up outputs": (
        edit("label", "default", 'output { name: "b" data_type: TYPE_FP32 } response_cache { enable: true }\ndefault'),
        "label", "cache-outputs", "gets the outputs of the first",
    ),
    "a plan that is none": (of_a_plan(b"PK a zip of something" * 2), "scale", "not-a-plan", "scale/1/0.plan"),
    "a plan of TensorRT-RTX": (
        of_a_plan(PLAN.replace(b"ftrt", b"vtrt")), "scale", "plan-runtime", "TensorRT-RTX 11.1.0.106",
    ),
    "plans of two versions": (
        of_a_plan(PLAN, PLAN[:-3] + bytes((2, 1, 7))), "scale", "plan-version", "one TensorRT",
    ),
    "a compute capability that is none": (of_a_plan(PLAN, keys=("sm90",)), "scale", "compute-capability", '"9.0"'),
    "an ensemble without a step": (no_step, "chain", "no-step", "add steps to ensemble_scheduling"),
    "a model of no known backend": (no_backend, "scale", "backend", "nothing says what runs it"),
    "a step of ours without a file": (step_without_a_file, "scale", "step-file", "step.json names no file"),
    "an index that is none": (broken_index, "coronanet", "index", "is not valid (files"),
}  # fmt: skip


def test_a_warm_up_of_a_whole_batch_is_sound(repository: Path) -> None:
    edit("scale", "dyn", WARM_UP + "dyn")(repository)
    assert lint_repository(repository) == []


@pytest.mark.parametrize("name", FAULTS)
def test_a_seeded_fault_is_named(repository: Path, name: str) -> None:
    seed, model, rule, words = FAULTS[name]
    seed(repository)
    faults = lint_repository(repository)
    found = [fault for fault in faults if (fault.model, fault.rule) == (model, rule)]
    assert found, rules(faults)
    assert any(words in str(fault) for fault in found), [str(fault) for fault in found]
    assert all(fault.remedy and (repository / fault.model).is_dir() for fault in faults)


@pytest.mark.parametrize(
    "name",
    [
        "a configuration that is none", "another name than the folder", "another type than the file",
        "a batch that the file does not take", "a file that is missing", "a file at an absolute path",
        "a model that is not there",
        "an input that nothing feeds", "an input that nothing reads", "a cycle",
        "a batch that a step does not take", "a queue limit that makes clients wait for ever", "plans of two versions",
    ],
)  # fmt: skip
def test_one_fault_is_one_line_not_an_avalanche(repository: Path, name: str) -> None:
    seed, model, rule, _ = FAULTS[name]
    seed(repository)
    about = [fault for fault in lint_repository(repository) if fault.rule not in ("unused-output", "unwritten-tensor")]
    assert (model, rule) in rules(about)
    assert len(about) <= 2, list(map(str, about))


def test_a_model_may_leave_its_tensors_to_its_file(repository: Path) -> None:
    (repository / "scale" / "config.pbtxt").write_text('backend: "onnxruntime"')
    assert lint_repository(repository) == []
    (repository / "scale" / "config.pbtxt").unlink()
    assert lint_repository(repository) == []
    write_onnx(repository / "scale" / "1" / "model.onnx", {"x": ["N", 4, "W"]}, "other", shape=["N", 4, "W"])
    assert ("chain", "unknown-output") in rules(lint_repository(repository))


def test_axes_that_a_file_does_not_tell_are_not_compared(repository: Path) -> None:
    write_onnx(repository / "scale" / "1" / "model.onnx", {"x": ["N", 4, "W"]}, "y", shape=None)
    assert lint_repository(repository) == []
    (repository / "scale" / "config.pbtxt").write_text('backend: "onnxruntime"')
    assert lint_repository(repository) == []


@pytest.mark.parametrize("config", [SCALE, 'backend: "onnxruntime"'], ids=["declared", "left to the file"])
def test_without_onnx_the_package_is_missing_and_not_the_network_wrong(
    repository: Path, config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / "scale" / "config.pbtxt").write_text(config)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingPackageError, match="reading ONNX files needs onnx"):
        lint_repository(repository)


def test_a_reshape_is_between_the_caller_and_the_file(repository: Path) -> None:
    wide = 'input { name: "x" data_type: TYPE_FP32 dims: 2 dims: 2 dims: -1 reshape { shape: [4, -1] } }'
    edit("scale", 'input { name: "x" data_type: TYPE_FP32 dims: 4 dims: -1 }', wide)(repository)
    faults = lint_repository(repository)
    assert rules(faults) == [("chain", "step-dims")]


def test_two_first_steps_must_not_limit_their_queue(repository: Path) -> None:
    edit("chain", 'key: "scores" value: "scaled"', 'key: "scores" value: "image"')(repository)
    assert ("scale", "queue-limit") in rules(lint_repository(repository))


def test_a_missing_target_falls_back_silently_and_is_said(repository: Path) -> None:
    for name in ("scale", "chain"):
        (repository / name / "configs").mkdir()
        (repository / name / "configs" / "gpu.pbtxt").write_text((repository / name / "config.pbtxt").read_text())
    assert lint_repository(repository) == []
    (fault,) = lint_repository(repository, "gpu")
    assert (fault.rule, fault.file) == ("missing-target", "label/configs/gpu.pbtxt")
    assert "silently reads label/config.pbtxt" in str(fault)
    with pytest.raises(UsageError, match=r"configs/cpu.pbtxt: expected one of gpu"):
        lint_repository(repository, "cpu")


def test_what_is_no_repository_is_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder"):
        lint_repository(tmp_path / "nothing")
    with pytest.raises(UsageError, match="no model in"):
        lint_repository(tmp_path)
