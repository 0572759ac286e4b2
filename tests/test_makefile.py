"""What `make` would run; nothing is run here."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def _plan(*arguments: str) -> str:
    done = subprocess.run(
        ["make", "--dry-run", *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_demo_takes_a_path_with_spaces_and_a_window_of_two_numbers() -> None:
    assert "coronanet demo 'my scans/1.png' --window -1350 150" in _plan(
        "demo", "DATA=my scans/1.png", "WINDOW=-1350 150"
    )


def test_demo_without_arguments_lets_the_demo_choose() -> None:
    assert _plan("demo").splitlines()[-1].rstrip().endswith("coronanet demo")


def test_check_ends_with_the_tests_and_starts_with_the_format() -> None:
    plan = _plan("check")
    steps = ("ruff format --check", "ruff check", "basedpyright", "lint-imports", "bin/pytest")
    assert [step for _, step in sorted((plan.index(step), step) for step in steps)] == list(steps)
    assert plan.rstrip().splitlines()[-1].startswith(".venv/bin/pytest")


def test_the_environment_comes_before_the_tests_and_from_the_lock() -> None:
    plan = _plan("test", "--always-make")
    assert plan.index("-c constraints.txt") < plan.index(".venv/bin/pytest")


def test_ci_runs_make_check() -> None:
    script = ROOT / ".ci" / "run"
    assert script.read_text(encoding="utf-8").rstrip().endswith("exec make check")
    assert script.stat().st_mode & 0o100
