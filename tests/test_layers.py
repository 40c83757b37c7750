"""Imports go from a higher layer to a lower one, never between the packages of one layer, and never in a circle."""

import ast
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

import asyncgen

ROOT = Path(asyncgen.__file__).parent
LAYERS = [
    ["run"],
    ["providers"],
    ["job"],
    ["generate", "dataset"],
    ["finetune"],
    ["evaluate", "serve", "view"],
    ["api"],
    ["cli"],
]
LEVEL = {package: level for level, packages in enumerate(LAYERS, 1) for package in packages}
HEAVY = {"aiohttp", "openai", "rich", "numpy", "xllamacpp", "pyarrow", "genai_prices", "uvloop", "openpyxl", "ray"}


def package_of(parts: tuple[str, ...]) -> str:
    """The package of a module, from its path or dotted name below `asyncgen`; "" for a top-level module."""
    return parts[0] if parts[0] in LEVEL else ""


def imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import hides its layer"
            yield node.lineno, f"{node.module}.{node.names[0].name}" if node.module == "asyncgen" else str(node.module)


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down_only(path: Path) -> None:
    package = package_of(path.relative_to(ROOT).parts)
    if path in {ROOT / "__main__.py", ROOT / "__init__.py"}:
        package = "cli"  # the entry points: the command line, and the public names
    for line, name in imports(path):
        first, *rest = name.split(".")
        if first != "asyncgen" or not rest:
            continue
        other = package_of(tuple(rest))
        assert other == package or LEVEL.get(other, 0) < LEVEL.get(package, 0), f"{path}:{line} imports {name}"


def test_the_local_server_knows_nothing_of_its_clients() -> None:
    for path in (ROOT / "serve").rglob("*.py"):
        for line, name in imports(path):
            assert not name.startswith(("asyncgen.generate", "asyncgen.finetune")), f"{path}:{line} imports {name}"


@pytest.mark.parametrize("path", sorted((ROOT / "cli").glob("*_command.py")), ids=lambda path: path.name)
def test_a_command_file_imports_heavy_libraries_only_where_it_uses_them(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
        assert not {name.split(".")[0] for name in names} & HEAVY


def modules() -> dict[str, Path]:
    """Dotted name to file."""
    return {
        ".".join(("asyncgen", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
        for path in ROOT.rglob("*.py")
    }


def imported(path: Path, known: dict[str, Path]) -> set[str]:
    """The modules of ours that a module imports anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            found.update(name if name in known else node.module for name in names)
    return found & set(known)


def test_no_modules_import_each_other_in_a_circle() -> None:
    known = modules()
    del known["asyncgen"]  # it imports the public names when they are used
    graph = {name: imported(path, known) - {name} for name, path in known.items()}
    while last := {name for name, targets in graph.items() if not targets}:
        graph = {name: targets - last for name, targets in graph.items() if name not in last}
    assert sorted(graph) == []


def test_no_public_class_name_stands_twice() -> None:
    places: dict[str, list[str]] = {}
    for name, path in modules().items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(name)
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_there_are_few_modules_at_the_top_level() -> None:
    assert len(list(ROOT.glob("*.py"))) <= 9  # 8, and `__main__`


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_python_process_imports_nothing_from_the_current_folder(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if not isinstance(node, ast.List | ast.Tuple | ast.Call):
            continue
        arguments = node.args if isinstance(node, ast.Call) else node.elts
        for first, second in pairwise(map(ast.unparse, arguments)):
            assert first != "sys.executable" or second == "'-P'", f"{path}:{node.lineno}: needs -P"
