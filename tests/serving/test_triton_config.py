"""Configurations: what Triton parses, complete for every target, equal to the committed ones."""

from typing import Any

import pytest
from coronanet.engines.bundle import Bundle
from coronanet.engines.places import ROOT
from coronanet.model.tasks import TASK_NAMES, TaskName
from coronanet.serving.repository import CONFIG_PATHS
from coronanet.serving.triton_config import ENSEMBLE, TARGETS, parse_config, plan_steps, render_configs


def _with_other_window(bundle: Bundle) -> Bundle:
    card = bundle.card
    window = card.window.model_copy(update={"high_hu": card.window.high_hu + 100})
    return Bundle(bundle.path, bundle.manifest, card.model_copy(update={"window": window}), bundle.sha256)


def _with_fp16_verdict(bundle: Bundle, verdict: str) -> Bundle:
    files = tuple(
        record.model_copy(update={"evidence": record.evidence.model_copy(update={"verdict": verdict})})
        if record.precision == "fp16" and record.evidence
        else record
        for record in bundle.manifest.files
    )
    return Bundle(bundle.path, bundle.manifest.model_copy(update={"files": files}), bundle.card, bundle.sha256)


def _tensors(tensors: Any) -> list[tuple[str, str, list[int]]]:
    field = tensors[0].DESCRIPTOR.fields_by_name["data_type"]
    return [(each.name, field.enum_type.values_by_number[each.data_type].name, list(each.dims)) for each in tensors]


def test_the_committed_configurations_are_the_generated_ones(bundles: dict[TaskName, Bundle]) -> None:
    committed = ROOT / "triton_repo"
    generated = render_configs(bundles)
    for name, by_target in generated.items():
        for target, text in by_target.items():
            path = committed / name / CONFIG_PATHS[target]
            assert path.read_text(encoding="utf-8") == text, f"{path}: run `coronanet repository`"
    assert {path.parent.name for path in committed.glob("*/config.pbtxt")} == generated.keys()


def test_every_model_has_a_configuration_for_every_target(bundles: dict[TaskName, Bundle]) -> None:
    for name, by_target in render_configs(bundles).items():
        assert tuple(by_target) == TARGETS
        for text in by_target.values():
            parsed: Any = parse_config(text)
            assert parsed.name == name
            assert parsed.max_batch_size > 0


def test_steps_are_the_graphs_of_every_task(bundles: dict[TaskName, Bundle]) -> None:
    steps = plan_steps(bundles)
    assert steps[0].graph == "preprocess"
    names = [step.name for step in steps if step.graph != "preprocess"]
    assert names == [*TASK_NAMES, *(f"decide_{task}" for task in TASK_NAMES)]


def test_cards_with_one_recipe_share_its_preprocessing(bundles: dict[TaskName, Bundle]) -> None:
    two: dict[TaskName, Bundle] = {
        "binary_segmentation": bundles["binary_segmentation"], "lung_segmentation": bundles["binary_segmentation"],
    }  # fmt: skip
    assert [step.name for step in plan_steps(two) if step.graph == "preprocess"] == ["preprocess"]


def test_the_ensemble_speaks_the_contract(bundles: dict[TaskName, Bundle]) -> None:
    parsed: Any = parse_config(render_configs(bundles)[ENSEMBLE]["embedded"])
    assert _tensors(parsed.input) == [("image", "TYPE_INT16", [-1, -1])]
    assert _tensors(parsed.output) == [
        ("infected_probability", "TYPE_FP32", [1]),
        ("lesion_mask", "TYPE_UINT8", [-1, -1]),
        ("lesion_types", "TYPE_UINT8", [-1, -1]),
        ("lung_mask", "TYPE_UINT8", [-1, -1]),
    ]


def test_every_tensor_of_the_ensemble_is_written_before_it_is_read(bundles: dict[TaskName, Bundle]) -> None:
    parsed: Any = parse_config(render_configs(bundles)[ENSEMBLE]["embedded"])
    known = {"image"}
    for step in parsed.ensemble_scheduling.step:
        assert set(step.input_map.values()) <= known
        known |= set(step.output_map.values())
    assert {output.name for output in parsed.output} <= known


def test_cards_with_other_recipes_get_a_preprocessing_each(bundles: dict[TaskName, Bundle]) -> None:
    lung = bundles["lung_segmentation"]
    mixed: dict[TaskName, Bundle] = {"binary_segmentation": lung, "lung_segmentation": _with_other_window(lung)}
    steps = {step.name: step for step in plan_steps(mixed)}
    recipes = {task: bundle.card.recipe for task, bundle in mixed.items()}
    for task, recipe in recipes.items():
        assert steps[f"preprocess_{recipe}"].task == task
        assert steps[task].reads == {"pixels": f"pixels_{recipe}"}
    assert len(steps) == 6


def test_only_networks_run_as_plans(bundles: dict[TaskName, Bundle]) -> None:
    for step in plan_steps(bundles):
        parsed: Any = parse_config(render_configs(bundles)[step.name]["tensorrt"])
        expected = ("tensorrt", "model.plan") if step.graph == "network" else ("onnxruntime", f"{step.graph}.onnx")
        assert (parsed.backend, parsed.default_model_filename) == expected


@pytest.mark.parametrize(("verdict", "file"), [("passed", "network.fp16.onnx"), ("refused", "network.fp32.onnx")])
def test_the_container_runs_fp16_only_where_it_passed(bundles: dict[TaskName, Bundle], verdict: str, file: str) -> None:
    changed: dict[TaskName, Bundle] = {"classification": _with_fp16_verdict(bundles["classification"], verdict)}
    parsed: Any = parse_config(render_configs(changed)["classification"]["onnxruntime"])
    assert parsed.default_model_filename == file


def test_instances_are_of_networks_alone(bundles: dict[TaskName, Bundle]) -> None:
    configs = render_configs(bundles, instances=3)
    for step in plan_steps(bundles):
        parsed: Any = parse_config(configs[step.name]["embedded"])
        assert parsed.instance_group[0].count == (3 if step.graph == "network" else 1)


def test_only_the_first_step_limits_its_queue(bundles: dict[TaskName, Bundle]) -> None:
    configs = render_configs(bundles)
    for step in plan_steps(bundles):
        for text in configs[step.name].values():
            parsed: Any = parse_config(text)
            limit = parsed.dynamic_batching.default_queue_policy.max_queue_size
            assert limit == 0 or step.graph == "preprocess"
