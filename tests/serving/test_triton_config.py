"""Configurations: what Triton parses, complete for every target, equal to the committed ones."""

from typing import Any

import pytest
from coronanet.engines.bundle import Bundle
from coronanet.engines.places import ROOT
from coronanet.model.errors import UsageError
from coronanet.model.tasks import ENSEMBLE, TASK_NAMES, TRIAGE, TaskName
from coronanet.serving.repository import CONFIG_PATHS
from coronanet.serving.triton_config import TARGETS, parse_config, plan_steps, render_configs


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


def test_every_step_has_a_timeout_and_only_the_first_limits_its_queue(bundles: dict[TaskName, Bundle]) -> None:
    configs = render_configs(bundles)
    for step in plan_steps(bundles):
        for text in configs[step.name].values():
            parsed: Any = parse_config(text)
            policy = parsed.dynamic_batching.default_queue_policy
            assert policy.default_timeout_microseconds > 0
            assert (policy.max_queue_size > 0) == (step.graph == "preprocess")


def test_one_of_several_first_steps_limits_nothing(bundles: dict[TaskName, Bundle]) -> None:
    lung = bundles["lung_segmentation"]
    mixed: dict[TaskName, Bundle] = {"binary_segmentation": lung, "lung_segmentation": _with_other_window(lung)}
    for by_target in render_configs(mixed).values():
        for text in by_target.values():
            parsed: Any = parse_config(text)
            assert parsed.dynamic_batching.default_queue_policy.max_queue_size == 0


def test_the_embedded_server_batches_nobody_and_a_gpu_whoever_waits(bundles: dict[TaskName, Bundle]) -> None:
    configs = render_configs(bundles)
    for step in plan_steps(bundles):
        for target in TARGETS:
            parsed: Any = parse_config(configs[step.name][target])
            sizes = list(parsed.dynamic_batching.preferred_batch_size)
            assert sizes == ([1] if target == "embedded" else [])


def test_every_step_warms_up_with_what_it_takes(bundles: dict[TaskName, Bundle]) -> None:
    configs = render_configs(bundles)
    for step in plan_steps(bundles):
        for target in TARGETS:
            parsed: Any = parse_config(configs[step.name][target])
            sizes = [sample.batch_size for sample in parsed.model_warmup]
            assert sizes == ([1, 8] if step.graph == "network" and target != "embedded" else [1])
            for sample in parsed.model_warmup:
                declared = {each.name: each for each in parsed.input}
                assert sample.inputs.keys() == declared.keys()
                for name, given in sample.inputs.items():
                    assert given.data_type == declared[name].data_type
                    dims = list(zip(given.dims, declared[name].dims, strict=True))
                    assert all(size > 0 and wanted in (-1, size) for size, wanted in dims)


def test_the_newest_version_is_served_everywhere(bundles: dict[TaskName, Bundle]) -> None:
    for by_target in render_configs(bundles, triage_threshold=0.5).values():
        for text in by_target.values():
            parsed: Any = parse_config(text)
            assert parsed.version_policy.latest.num_versions == 1


def test_the_cache_is_of_networks_alone(bundles: dict[TaskName, Bundle]) -> None:
    configs = render_configs(bundles, response_cache=True)
    cached = {
        name
        for name, by_target in configs.items()
        for text in by_target.values()
        if _parsed(text).response_cache.enable
    }
    assert cached == set(bundles)
    assert "response_cache" not in str(render_configs(bundles))


def test_the_gated_model_speaks_the_contract_of_the_ensemble(bundles: dict[TaskName, Bundle]) -> None:
    configs = render_configs(bundles, triage_threshold=0.125)
    assert TRIAGE not in render_configs(bundles)
    for target in TARGETS:
        triage, ensemble = _parsed(configs[TRIAGE][target]), _parsed(configs[ENSEMBLE][target])
        assert _tensors(triage.input) == _tensors(ensemble.input)
        assert _tensors(triage.output) == _tensors(ensemble.output)
        assert triage.max_batch_size == ensemble.max_batch_size
        told = {name: each.string_value for name, each in triage.parameters.items()}
        assert told == {
            "ensemble": "coronanet",
            "gate": "infected_probability",
            "gated": "lesion_mask,lesion_types",
            "threshold": "0.125",
        }


@pytest.mark.parametrize("tasks", [("classification", "lung_segmentation"), ("binary_segmentation",)])
def test_there_must_be_a_gate_and_something_to_gate(
    bundles: dict[TaskName, Bundle], tasks: tuple[TaskName, ...]
) -> None:
    with pytest.raises(UsageError, match="needs a classification to gate with and a lesion segmentation to gate"):
        render_configs({task: bundles[task] for task in tasks}, triage_threshold=0.5)


def _parsed(text: str) -> Any:
    return parse_config(text)
