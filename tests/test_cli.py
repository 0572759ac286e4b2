"""What holds for every verb: help, errors of one line, exit codes, one JSON object."""

import json
from collections.abc import Iterator

import pytest
import typer
from coronanet import cli
from coronanet.engines.doctor import VERBS
from coronanet.model.errors import MissingPackageError, RefusedError, UsageError


def _verbs(app: typer.Typer, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for command in app.registered_commands:
        name = command.name or getattr(command.callback, "__name__", "")
        yield (*path, name.replace("_", "-"))
    for group in app.registered_groups:
        if group.typer_instance is not None:
            yield from _verbs(group.typer_instance, (*path, group.name or ""))


ALL_VERBS = sorted(_verbs(cli.app))


def _exit_code(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    return int(stopped.value.code or 0)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    """An application whose verb `fail` raises what a test puts into it."""
    app = typer.Typer()
    app.callback()(lambda: None)
    monkeypatch.setattr(cli, "app", app)
    return app


@pytest.mark.parametrize("verb", ALL_VERBS, ids=" ".join)
def test_every_verb_has_help(verb: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit_code([*verb, "--help"]) == 0
    assert f"coronanet {' '.join(verb)}" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("verb", ALL_VERBS, ids=" ".join)
def test_every_verb_has_json(verb: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    _exit_code([*verb, "--help"])
    assert "--json" in capsys.readouterr().out


def test_the_doctor_knows_every_verb() -> None:
    assert {verb.partition(" --")[0] for verb in VERBS} == {" ".join(verb) for verb in ALL_VERBS}


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit_code([]) == 0
    assert "not a medical device" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("arguments", [["nosuch"], ["doctor", "--nosuch"], ["--nosuch"]])
def test_wrong_use_is_one_line_that_points_to_the_help(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert _exit_code(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert captured.err.startswith("error: ")
    assert "--help`" in captured.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("expected a folder, got a file:\n pass --out"), 2),
        (RefusedError("the hash is wrong: export it again"), 1),
        (MissingPackageError("torch", purpose="training", extra="train"), 2),
    ],
)
def test_a_failure_is_one_line_and_its_exit_code(
    failing: typer.Typer, error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    @failing.command()
    def fail() -> None:  # pyright: ignore[reportUnusedFunction]
        raise error

    assert _exit_code(["fail"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"error: {' '.join(str(error).split())}\n"


def test_with_json_a_failure_is_one_object(failing: typer.Typer, capsys: pytest.CaptureFixture[str]) -> None:
    @failing.command()
    def fail(json: bool = False) -> None:  # pyright: ignore[reportUnusedFunction]
        raise RefusedError("the hash is wrong")

    assert _exit_code(["fail", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {"error": "the hash is wrong", "exit_code": 1}


def test_a_missing_package_names_its_purpose_and_its_extra() -> None:
    error = MissingPackageError("openvino", purpose="the OpenVINO engine", extra="cpu")
    assert str(error) == (
        "the OpenVINO engine needs openvino, which is not installed: pip install 'coronanet[cpu]' "
        "(docs/errors.md#package-missing)"
    )


def test_coronanet_export_is_the_verb_export(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["coronanet-export", "--help"])
    with pytest.raises(SystemExit):
        cli.export_main()
    assert "coronanet export" in " ".join(capsys.readouterr().out.split())
