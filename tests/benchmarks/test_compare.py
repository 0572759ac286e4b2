"""`bench compare`: what is not the same measurement is refused by name, what is gets a verdict a case."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from coronanet.benchmarks.compare import check_same, compare, differences, why_missing
from coronanet.benchmarks.protocol import EngineCase, PeerCase, Protocol
from coronanet.benchmarks.report import EngineReport, EngineResult, PeerResult, Skipped, Statistics, Yardstick
from coronanet.benchmarks.schemas import document_schema
from coronanet.benchmarks.serving_report import ServingReport
from coronanet.benchmarks.tables import comparison_notes
from coronanet.benchmarks.timing import NS_PER_MS, Samples
from coronanet.cli import main
from coronanet.model.errors import UsageError

Make = Callable[..., EngineReport]


def rounds_of(ms: float, rounds: int = 10, block: int = 5) -> tuple[tuple[int, ...], ...]:
    """Rounds that scatter by a percent, the same every time."""
    return tuple(
        tuple(round(ms * NS_PER_MS * (1 + 0.01 * ((number * block + call) % 7 - 3) / 3)) for call in range(block))
        for number in range(rounds)
    )


@pytest.fixture
def make(protocol: Protocol, engine_case: EngineCase) -> Make:
    """A report of the fp16 case and its int8 one in so many milliseconds, and of a yardstick."""

    def result(case: EngineCase, ms: float, count: int) -> EngineResult:
        rounds = rounds_of(ms, count)
        return EngineResult(
            case=case,
            protocol_sha256=protocol.sha256(case),
            file_bytes=1,
            parity=None,
            chosen=False,
            warm_up_ns=(1,),
            rounds_ns=rounds,
            statistics=Statistics.of(Samples(sum(rounds, ()))),
            noise_floor=0.01,
            warnings=(),
        )

    def report(
        fp16: float, int8: float | None = None, yardstick: float | None = 6.0, rounds: int = 10, **software: Any
    ) -> EngineReport:
        own = protocol.model_copy(update={"software": protocol.software.model_copy(update=software)})
        other = engine_case.model_copy(update={"precision": "int8"})
        rod = Yardstick(task=engine_case.task, batch=1, rounds_ns=rounds_of(yardstick or 1, rounds))
        return EngineReport(
            protocol=own,
            results=(result(engine_case, fp16, rounds), *((result(other, int8, rounds),) if int8 else ())),
            yardsticks=(rod,) if yardstick else (),
            skipped=(),
        )

    return report


def run(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "compare", *arguments])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def write(report: EngineReport | ServingReport, path: Path) -> str:
    path.write_text(report.to_json(), encoding="utf-8")
    return str(path)


def test_every_case_gets_its_own_verdict(make: Make) -> None:
    found = compare(make(10, 10), make(12, 8))
    assert [(one.case.precision, one.verdict) for one in found.comparisons if isinstance(one.case, EngineCase)] == [
        ("fp16", "slower"),
        ("int8", "faster"),
    ]
    slower = found.comparisons[0]
    assert slower.ratio == pytest.approx(1.2, rel=0.02)
    assert slower.low <= slower.ratio <= slower.high
    assert (slower.a_p50_ms, slower.b_p50_ms) == (pytest.approx(10, rel=0.01), pytest.approx(12, rel=0.01))
    assert slower.relative_to == "yardstick"
    assert compare(make(10), make(10.1)).comparisons[0].verdict == "noise"


def test_a_machine_that_slowed_down_is_not_a_slower_network(make: Make) -> None:
    (one,) = compare(make(10, yardstick=6), make(12, yardstick=7.2)).comparisons
    assert one.verdict == "noise"
    assert one.ratio == pytest.approx(1.0, rel=0.01)


def test_without_a_yardstick_the_floor_is_wide(make: Make) -> None:
    (one,) = compare(make(10, yardstick=None), make(10.8, yardstick=None)).comparisons
    assert (one.verdict, one.relative_to) == ("noise", None)
    assert compare(make(10, yardstick=None), make(13, yardstick=None)).comparisons[0].verdict == "slower"


def on_gpu(report: EngineReport) -> EngineReport:
    """The same report, its case on a GPU and a peer's beside it."""
    (result,) = report.results
    case = result.case.model_copy(update={"backend": "torch_cuda"})
    peer = PeerResult(
        case=PeerCase(task=case.task, peer="torch cuda fp16", batch=1, threads=None),
        protocol_sha256="00",
        description="",
        max_difference=None,
        warm_up_ns=(1,),
        rounds_ns=result.rounds_ns,
        statistics=result.statistics,
        noise_floor=None,
        warnings=(),
    )
    return report.model_copy(update={"results": (result.model_copy(update={"case": case}),), "peers": (peer,)})


def test_every_case_that_is_gone_has_the_reason_that_the_later_report_gives(make: Make) -> None:
    earlier = on_gpu(make(10))
    (way,), (peer,) = ([one.case for one in part] for part in (earlier.results, earlier.peers))

    def why(*skipped: tuple[str, str]) -> list[str]:
        later = make(10).model_copy(update={"skipped": tuple(Skipped(what=w, reason=r) for w, r in skipped)})
        found = why_missing(earlier, later)
        assert [case for case, _ in found] == [way, peer]
        return [reason for _, reason in found]

    task = "lung_segmentation"
    assert why() == ["no reason is known"] * 2
    assert why((f"{task} torch_cuda fp16", "no GPU"), (f"{task} torch cuda fp16 batch 1", "died")) == ["no GPU", "died"]
    assert why((f"{task} torch_cuda fp16 batch 1", "died"), (f"{task} torch cuda fp16", "gone")) == ["died", "gone"]
    assert why((f"{task} batch 1", "all died"), (f"{task} torch_cuda fp16 batch 2", "another")) == ["all died"] * 2
    assert why((f"{task} peers batch 1", "peers died")) == ["no reason is known", "peers died"]
    without = way.model_copy(update={"graphs": False})
    assert str(without).endswith("no CUDA graph")
    gone = earlier.model_copy(update={"results": (earlier.results[0].model_copy(update={"case": without}),)})
    later = make(10).model_copy(
        update={"skipped": (Skipped(what=f"{task} torch_cuda fp16 without CUDA graphs", reason="planted"),)}
    )
    assert (without, "planted") in why_missing(gone, later)
    assert why_missing(earlier, earlier) == []


def test_noise_of_few_rounds_is_said_to_hide_a_tenth(make: Make) -> None:
    def notes(a: float, b: float, rounds: int, yardstick: float | None = 6.0) -> str:
        one, other = (make(ms, yardstick=yardstick, rounds=rounds) for ms in (a, b))
        return " ".join(comparison_notes(compare(one, other)))

    said = "1 of 1 verdicts of noise rest on fewer than 40 rounds (the fewest: 39), in which a tenth may hide"
    assert f"{said}: give both runs --repeats 200" in notes(10, 10, 39)
    assert "a tenth" not in notes(10, 10, 40)
    assert "a tenth" not in notes(10, 20, 39)
    # Without a yardstick the floor is a tenth, whatever the rounds.
    assert "a tenth" not in notes(10, 10, 39, yardstick=None)


def test_what_runs_on_a_gpu_is_not_divided_by_the_yardstick_of_the_cpu(make: Make) -> None:
    found = compare(on_gpu(make(10, yardstick=6)), on_gpu(make(10, yardstick=9))).comparisons
    assert [(one.ratio, one.relative_to, one.verdict) for one in found] == [(1.0, None, "noise")] * 2


def test_two_rounds_are_not_judged_and_the_notes_say_how_many_there_were(make: Make) -> None:
    report = make(10)
    short = report.results[0].model_copy(update={"rounds_ns": rounds_of(20, rounds=2)})
    found = compare(report, report.model_copy(update={"results": (short,)}))
    assert [(one.verdict, one.rounds) for one in found.comparisons] == [("not judged", 2)]
    (note,) = (note for note in comparison_notes(found) if "could not judge" in note)
    assert "lung_segmentation onnxruntime fp16 batch 1: 2 of at least 4 rounds: raise --repeats" in note
    jsonschema.validate(json.loads(found.to_json()), document_schema("bench-compare"))


def test_another_protocol_is_refused_and_the_field_is_named(make: Make) -> None:
    with pytest.raises(UsageError, match=r"software\.python is \S+ in A and 3\.99 in B.*--vary software\.python"):
        compare(make(10), make(10, python="3.99"))
    varied = compare(make(10), make(10, python="3.99"), ["software.python"]).varied
    assert varied == ("software.python",)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("method.transfers", lambda p: ("method", {"transfers": "others"})),
        ("method.plan.repeats", lambda p: ("method", {"plan": {**vars(p.method.plan), "repeats": 3}})),
        ("method.input.sha256", lambda p: ("method", {"input": {**p.method.input.model_dump(), "sha256": "1"}})),
        ("machine.cores", lambda p: ("machine", {"cores": 999})),
        ("software.environment.OMP_NUM_THREADS", lambda p: ("software", {"environment": {"OMP_NUM_THREADS": "9"}})),
        ("software.bundles.classification", lambda p: ("software", {"bundles": {"classification": "00"}})),
    ],
)
def test_every_part_of_the_protocol_counts(
    protocol: Protocol, field: str, change: Callable[[Protocol], tuple[str, dict[str, Any]]]
) -> None:
    part, update = change(protocol)
    value = json.loads(protocol.model_dump_json())
    value[part] |= update
    other = Protocol.model_validate_json(json.dumps(value))
    assert field in differences(protocol, other)
    with pytest.raises(UsageError, match=field.replace(".", r"\.")):
        check_same(protocol, other)
    assert field in check_same(protocol, other, [field.rpartition(".")[0]])


def test_the_moment_may_differ_and_a_beginning_of_a_name_is_not_the_name(protocol: Protocol) -> None:
    later = protocol.model_copy(update={"moment": protocol.moment.model_copy(update={"load_average": 99.0})})
    assert differences(protocol, later) == {}
    renamed = protocol.model_copy(update={"machine": protocol.machine.model_copy(update={"cores": 99})})
    with pytest.raises(UsageError, match=r"machine\.cores"):
        check_same(protocol, renamed, ["mach", "machine.core"])


def test_no_case_in_common_is_said(make: Make) -> None:
    other = make(1).model_copy(update={"results": ()})
    with pytest.raises(UsageError, match="no case is in both"):
        compare(make(10), other)
    found = compare(make(10, 10), make(10))
    assert found.only_in_a == ("lung_segmentation onnxruntime int8 batch 1",)


def test_served_reports_are_compared_burst_by_burst(serving: ServingReport) -> None:
    found = compare(serving, serving)
    # Two bursts at most.
    assert {(one.verdict, one.ratio) for one in found.comparisons} == {("not judged", 1.0)}
    assert all(one.ratio == pytest.approx(1.0) for one in found.comparisons)


def test_the_verb_prints_a_table_or_one_object_and_writes_the_same(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = write(make(10), tmp_path / "a.json"), write(make(13), tmp_path / "b.json")
    code, out, error = run([a, b, "--out", str(tmp_path / "c.json"), "--json"], capsys)
    assert (code, error) == (0, "")
    value = json.loads(out)
    jsonschema.validate(value, document_schema("bench-compare"))
    assert value == json.loads((tmp_path / "c.json").read_text())
    assert [one["verdict"] for one in value["comparisons"]] == ["slower"]
    code, out, _ = run([a, b], capsys)
    assert code == 0
    assert "slower" in out
    assert "1.300" in out


def test_the_verb_refuses_other_protocols_with_exit_2_in_one_line(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = write(make(10), tmp_path / "a.json"), write(make(10, source="other"), tmp_path / "b.json")
    code, out, error = run([a, b], capsys)
    assert (code, out) == (2, "")
    assert "software.source" in error
    assert len(error.strip().splitlines()) == 1
    code, _, error = run([a, b, "--vary", "software.source"], capsys)
    assert code == 0
    assert "differs, as allowed: software.source" in error


@pytest.mark.parametrize("text", ["no json", "[1]", '{"protocol": {"method": {"verb": "bench other"}}}'])
def test_what_is_no_report_is_one_line(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.json").write_text(text)
    code, _, error = run([str(tmp_path / "a.json")] * 2, capsys)
    assert code == 2
    assert "is no report of `coronanet bench engines`" in error
