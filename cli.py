"""The command line: `coronanet VERB`, and `coronanet-export` for `coronanet export`."""

import sys
from collections.abc import Sequence

import typer
from typer.exceptions import Abort, TyperException

from . import demo
from .benchmarks import cli as benchmarks_cli
from .console import emit_json, fail
from .engines import cli as engines_cli
from .engines import keys_cli
from .export import cli as export_cli
from .export.shipped import provide_bundles
from .model.errors import CoronanetError, UsageError
from .serving import cli as serving_cli
from .training import cli as training_cli
from .training.evaluation import cli as evaluate_cli
from .training.sweep import cli as sweep_cli
from .training.ucsd import cli as ucsd_cli
from .training.weak import cli as weak_cli

app = typer.Typer(
    help="Chest CT networks from training to a served, measured deployment. Research software, not a medical device.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def root(ctx: typer.Context) -> None:
    ctx.obj = provide_bundles


for part in (
    training_cli,
    evaluate_cli,
    sweep_cli,
    ucsd_cli,
    weak_cli,
    export_cli,
    keys_cli,
    serving_cli,
    benchmarks_cli,
    engines_cli,
    demo,
):
    part.register(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a verb; a failure is one line on stderr (with ``--json`` also an object on stdout) and its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        code = app(given, standalone_mode=False, prog_name="coronanet")
    except CoronanetError as error:
        code = _report(str(error), error.exit_code, given)
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        code = _report(f"cannot use {what}{error.strerror or error}", UsageError.exit_code, given)
    except Abort:
        code = 130
    except TyperException as error:
        command = getattr(getattr(error, "ctx", None), "command_path", "coronanet")
        code = _report(f"{error.format_message().rstrip('.')} (see `{command} --help`)", error.exit_code, given)
    raise SystemExit(code or 0)


def export_main() -> None:
    """`coronanet-export` is `coronanet export`."""
    main(["export", *sys.argv[1:]])


def _report(message: str, code: int, arguments: Sequence[str]) -> int:
    line = fail(message)
    if "--json" in arguments:
        emit_json({"error": line, "exit_code": code})
    return code
