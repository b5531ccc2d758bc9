"""The direction of imports, as the code has it: what is lower may not know what is higher."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "dcal_lite"

# A module may import from the layers above it in this list, never from its own or from those below.
LAYERS = [
    {"errors", "sharding", "recipes", "checkpoint"},
    {"precision"},
    {"attention", "metrics", "localisation", "recipe", "results", "data"},
    {"attention_rollout", "reranking", "losses", "heads", "backbones", "plot"},
    {"dcal", "rga", "hacnn"},
    {"models", "saliency", "explorers"},
    {"evaluation", "costs"},
    {"optimisation"},
    {"train"},
    {"ledger"},
    {"zoo", "__main__"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
HOMES = {"timm": {"backbones", "models"}, "matplotlib": {"plot"}, "seaborn": {"plot"}, "yaml": {"recipe"}}
FOREIGN = {"book", "tests", "data_scripts"}


def module_name(path: Path) -> str:
    """The dotted name of a file of the library, without the package: "data.records"."""
    parts = path.relative_to(LIBRARY).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imported(path: Path) -> set[str]:
    """The dotted names that a file imports; relative ones are written out."""
    package = ["dcal_lite", *path.relative_to(LIBRARY).parent.parts]
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            names |= {f"{source}.{alias.name}" for alias in node.names}
    return names


FILES = sorted(LIBRARY.rglob("*.py"))
IMPORTS = {module_name(path): imported(path) for path in FILES}
MODULES = sorted(IMPORTS.keys() - {""})  # "" is the package itself, the public face: it imports from everywhere


def internal(name: str) -> set[str]:
    """The library's own modules that a module imports, by their first name: "data" for data.records."""
    own = (target.split(".") for target in IMPORTS[name] if target.split(".")[0] == "dcal_lite")
    return {parts[1] if len(parts) > 1 and parts[1] in RANK else "dcal_lite" for parts in own}


def test_the_reader_of_imports_sees_them_all(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "LIBRARY", tmp_path)
    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / "toy.py"
    file.write_text("import a.b\nfrom . import records\nfrom ..models import x\ndef f():\n    from c import d\n")
    assert imported(file) == {"a.b", "dcal_lite.data.records", "dcal_lite.models.x", "c.d"}


@pytest.mark.parametrize("name", MODULES)
def test_every_module_has_a_layer(name):
    assert name.split(".")[0] in RANK


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_one_way(name):
    first = name.split(".")[0]
    for other in internal(name) - {first}:
        assert RANK.get(other, len(LAYERS)) < RANK[first], f"{name} must not know {other}"


@pytest.mark.parametrize("name", MODULES)
def test_outside_packages_have_one_home(name):
    outside = {target.split(".")[0] for target in IMPORTS[name]}
    assert not outside & FOREIGN
    strangers = {package for package, homes in HOMES.items() if package in outside and name.split(".")[0] not in homes}
    assert not strangers, f"{name} imports {strangers}"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_no_public_function_bears_its_modules_name(path):
    statements = ast.parse(path.read_text(encoding="utf-8")).body
    assert path.stem not in {node.name for node in statements if isinstance(node, ast.FunctionDef)}
