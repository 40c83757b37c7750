"""What one package uses of another says what it takes, gives and raises.

Counted are the functions and classes that another package imports, with the public methods of those classes, and every
public name. A docstring needs three sections, in Google's form:

- `Args:` where there are parameters;
- `Returns:` or `Yields:` where there is a result, unless the docstring begins with "Return", "Yield" or "Whether";
- `Raises:` with each exception that the function itself raises.

Three kinds of docstring may be shorter: that of a property; that of a function without parameters, whose one sentence
describes the result; and a method's, where its class says "Implements `Name`" and `Name` documents the method.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

import asyncgen

ROOT = Path(asyncgen.__file__).parent
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Used:
    """A name that another package uses."""

    package: str
    name: str
    node: Function | ast.ClassDef
    owner: ast.ClassDef | None = None


@cache
def modules() -> dict[str, ast.Module]:
    """Dotted name to syntax tree."""
    return {
        ".".join(("asyncgen", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): ast.parse(
            path.read_text(encoding="utf-8")
        )
        for path in sorted(ROOT.rglob("*.py"))
    }


def package_of(module: str) -> str:
    """The package directly below `asyncgen`; "" for a module at the top level."""
    name = module.partition(".")[2].partition(".")[0]
    return name if (ROOT / name).is_dir() else ""


def names_from_elsewhere() -> dict[str, set[str]]:
    """Module to those of its names that modules of other packages import or read as an attribute."""
    found: dict[str, set[str]] = defaultdict(set)
    for module, tree in modules().items():
        imported: dict[str, str] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("asyncgen"):
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    if full in modules():
                        imported[alias.asname or alias.name] = full
                    elif module == "asyncgen" or package_of(str(node.module)) != package_of(module):
                        found[str(node.module)].add(alias.name)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in imported:
                other = imported[node.value.id]
                if package_of(other) != package_of(module):
                    found[other].add(node.attr)
    return found


@cache
def used_across_packages() -> list[Used]:
    return [
        used
        for module, names in sorted(names_from_elsewhere().items())
        for node in modules()[module].body
        if isinstance(node, Function | ast.ClassDef) and node.name in names
        for used in with_methods(package_of(module), node)
    ]


def with_methods(package: str, node: Function | ast.ClassDef) -> Iterator[Used]:
    if any(ast.unparse(item) == "overload" for item in node.decorator_list):
        return  # the implementation documents it
    yield Used(package, node.name, node)
    if isinstance(node, ast.ClassDef):
        for method in node.body:
            if isinstance(method, Function) and not method.name.startswith("_"):
                yield Used(package, f"{node.name}.{method.name}", method, node)


@cache
def documented_methods() -> set[str]:
    """`Class.method` of every method with a docstring."""
    return {
        f"{node.name}.{method.name}"
        for tree in modules().values()
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        for method in node.body
        if isinstance(method, Function) and ast.get_docstring(method)
    }


def is_property(node: Function) -> bool:
    return any(ast.unparse(item).endswith(("property", ".setter")) for item in node.decorator_list)


def is_said_elsewhere(used: Used) -> bool:
    """Whether the class implements an interface that documents the method."""
    interfaces = (
        re.findall(r"[Ii]mplements ((?:`\w+`(?:, | and )?)+)", ast.get_docstring(used.owner) or "")
        if used.owner
        else []
    )
    method = used.name.rpartition(".")[2]
    return any(f"{name}.{method}" in documented_methods() for text in interfaces for name in re.findall(r"\w+", text))


def raised_by(node: ast.AST) -> Iterator[str]:
    """Names of the exception classes that a function raises itself."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.Lambda | ast.ClassDef):
            continue
        if isinstance(child, ast.Raise) and isinstance(child.exc, ast.Call):
            name = ast.unparse(child.exc.func).rpartition(".")[2]
            if name[:1].isupper():
                yield name
        yield from raised_by(child)


def missing(used: Used) -> list[str]:
    """The sections that a docstring lacks; "docstring" where there is none."""
    text, node = ast.get_docstring(used.node) or "", used.node
    if not text:
        return [] if is_said_elsewhere(used) else ["docstring"]
    if isinstance(node, ast.ClassDef) or is_property(node):
        return []
    found = []
    takes = {argument.arg for argument in ast.walk(node.args) if isinstance(argument, ast.arg)} - {"self", "cls"}
    if takes and "Args:" not in text:
        found.append("Args")
    gives = node.returns is not None and ast.unparse(node.returns) not in {
        "None",
        "Never",
        "NoReturn",
        "Iterator[None]",
        "AsyncIterator[None]",
    }
    if takes and gives and not re.search(r"(?m)^(Return|Yield|Whether)|^(Returns|Yields):$", text):
        found.append("Returns")
    raises = text.partition("Raises:")[2]
    return found + [f"Raises {name}" for name in sorted(set(raised_by(node))) if not re.search(rf"\b{name}\b", raises)]


PACKAGES = sorted({used.package for used in used_across_packages()})


@pytest.mark.parametrize("package", PACKAGES)
def test_what_other_packages_use_is_documented(package: str) -> None:
    lacking = {used.name: missing(used) for used in used_across_packages() if used.package == package}
    assert {name: sections for name, sections in lacking.items() if sections} == {}


def test_the_names_that_are_used_are_found() -> None:
    names = {used.name for used in used_across_packages()}
    assert {"generate", "Run.records", "AsyncgenError", "RunDirectory", "nearest"} <= names
