"""Nothing but `coronanet evaluate` can reach a test split: held on the source itself."""

import ast
from collections.abc import Iterator
from pathlib import Path

from coronanet.engines.places import ROOT

FLOORS = ("model", "engines", "export", "serving", "benchmarks", "training")


def _sources() -> Iterator[tuple[str, ast.Module]]:
    for path in [*ROOT.glob("*.py"), *(path for floor in FLOORS for path in (ROOT / floor).rglob("*.py"))]:
        yield str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"))


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from [(node.module or ""), *(name.name for name in node.names)]
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def test_only_evaluate_imports_the_test_sets() -> None:
    guilty = {path for path, tree in _sources() if any(name.endswith("test_sets") for name in _imports(tree))}
    assert guilty == {"training/evaluation/evaluate.py"}


def test_only_the_test_sets_say_final_of_themselves() -> None:
    """Everywhere else ``final`` is handed on from the command line."""
    guilty = {
        path
        for path, tree in _sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword)
        and node.arg == "final"
        and isinstance(node.value, ast.Constant)
        and node.value.value is not False
    }
    assert guilty == {"training/evaluation/test_sets.py"}


#: What may say ``"test"``: the sets themselves, and the official splits of UCSD, which ask for ``final``.
MAY_SAY_TEST = {
    "training/evaluation/test_sets.py",
    "training/evaluation/baseline.py",
    "training/ucsd/images.py",
}


def test_no_other_file_says_test() -> None:
    guilty = {
        path
        for path, tree in _sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value == "test"
    }
    assert guilty == MAY_SAY_TEST


def test_no_other_file_names_the_folder_of_a_test_split() -> None:
    guilty = {
        path
        for path, tree in _sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and "/test" in node.value.rstrip(".,/ ")
        # Docstrings may name what they do not open.
        and "\n" not in node.value
        and " " not in node.value
    }
    assert guilty == set()
    tree = ast.parse((Path(ROOT) / "training" / "evaluation" / "test_sets.py").read_text(encoding="utf-8"))
    assert any(isinstance(node, ast.Constant) and node.value == "test" for node in ast.walk(tree))
