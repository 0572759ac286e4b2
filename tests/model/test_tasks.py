"""The names that everything carries are written down once."""

import ast
from collections import Counter
from collections.abc import Iterator

from coronanet.engines.places import ROOT
from coronanet.model import tasks

FOLDERS = ("model", "engines", "export", "serving", "benchmarks", "training")


def _constants() -> Iterator[tuple[str, str]]:
    """Name and value of every string that a module of the source binds at its top, alone or in a tuple."""
    for path in [ROOT / "demo.py", *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))]:
        for line in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(line, ast.Assign):
                for target, value in zip(_parts(line.targets[0]), _parts(line.value), strict=False):
                    if isinstance(target, ast.Name) and isinstance(value, ast.Constant):
                        yield target.id, str(value.value)


def _parts(node: ast.expr) -> list[ast.expr]:
    return node.elts if isinstance(node, ast.Tuple) else [node]


def test_the_served_models_are_named_in_one_place() -> None:
    named = Counter(_constants())
    assert named["ENSEMBLE", tasks.ENSEMBLE] == 1
    assert [name for name, value in named.elements() if value == tasks.TRIAGE] == ["TRIAGE"]
    assert [value for name, value in named.elements() if name == "ENSEMBLE"] == ["coronanet"]
