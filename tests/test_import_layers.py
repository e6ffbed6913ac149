"""Layers of imports: every import points down, none runs in a circle, names say what they hold.

Imports are read from the syntax trees, those inside functions included: a late import is still an
import. Every folder and top-level module of the package has to be listed in ``LAYERS``.
"""

import ast
import tomllib
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import dsf

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "dsf"

# Lowest first: eight layers. Packages of one layer do not import each other, except that one which
# stands behind another in its line may import it.
LAYERS: tuple[tuple[tuple[str, ...], ...], ...] = (
    (("runtime",), ("systems",)),
    (("evaluate",),),
    (("mixers", "measures"),),
    (("certificates", "layers", "models", "loading"),),
    (("inspection",),),
    (("attribution", "properties", "testing"), ("interventions",)),
    (("report", "jobs"),),
    (("cli",), ("__main__",)),
)
STEPS = [step for layer in LAYERS for step in layer]
LAYER_OF = {part: number for number, parts in enumerate(STEPS) for part in parts}

# Imports that may point up, each with its reason.
ALLOWED_UP: dict[tuple[str, str], str] = {}
# Imports that point down and are still wrong: an architecture does not say how it is computed.
FORBIDDEN = {("mixers", "evaluate")}

NAMELESS = {"utils", "util", "common", "helpers", "helper", "core", "misc"}
NAMELESS_FOLDERS = NAMELESS | {"base"}

FILES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    """The dotted name of a file; an ``__init__`` has the name of its folder."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = {name_of(path): path for path in FILES}


def imports(module: str, tree: ast.Module) -> list[str]:
    """Every module of this package that a tree names, as far down as it names it."""
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            named = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            raise AssertionError(f"{module}: write the import in full, from dsf.<part>.")
        elif isinstance(node, ast.ImportFrom):
            below = [f"{node.module}.{alias.name}" for alias in node.names]
            named = [name if name in PATHS else node.module for name in below]
        else:
            continue
        found += [name for name in named if name.partition(".")[0] == "dsf"]
    return found


def tree_of(module: str) -> ast.Module:
    return ast.parse(PATHS[module].read_text(encoding="utf-8"))


@cache
def graph() -> dict[str, list[str]]:
    """What every module of the package imports."""
    return {module: imports(module, tree_of(module)) for module in PATHS}


def part_of(module: str) -> str:
    """The folder or top-level module that a module belongs to; ``dsf`` itself is one."""
    return module.split(".")[1] if "." in module else module


def arrows(imported: dict[str, list[str]]) -> set[tuple[str, str]]:
    """Pairs of different parts, the importing one first. ``dsf`` itself may import every part."""
    pairs = {(part_of(above), part_of(name)) for above, names in imported.items() for name in names}
    return {(above, below) for above, below in pairs if above not in (below, "dsf")}


def upward(pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    return {(above, below) for above, below in pairs if LAYER_OF.get(below, 99) >= LAYER_OF[above]}


def test_every_part_has_a_layer():
    assert {part_of(module) for module in PATHS} - {"dsf"} <= set(LAYER_OF)


def test_imports_point_down():
    assert upward(arrows(graph())) <= set(ALLOWED_UP)


def test_an_exception_that_nobody_uses_is_an_error():
    assert set(ALLOWED_UP) <= upward(arrows(graph()))


def test_forbidden_imports_are_not_made():
    assert not FORBIDDEN & arrows(graph())


def test_nothing_inside_imports_the_public_names():
    inside = [module for module in PATHS if module != "dsf"]
    assert [module for module in inside if "dsf" in graph()[module]] == []


def test_imports_run_in_no_circle():
    assert circle({module: {*names} - {module} for module, names in graph().items()}) == ""


def circle(below: dict[str, set[str]]) -> str:
    try:
        TopologicalSorter(below).prepare()
    except CycleError as error:
        return " -> ".join(error.args[1])
    return ""


FOLDERS = sorted({path.parent for path in FILES})


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_the_parts_of_a_folder_run_in_no_circle(folder):
    """Files beside each other and folders beside them, each folder as one part."""
    prefix = f"{name_of(folder / '__init__.py')}."

    def part(module: str) -> str | None:
        return module.removeprefix(prefix).split(".")[0] if module.startswith(prefix) else None

    below: dict[str, set[str]] = {}
    for module, names in graph().items():
        above = part(module)
        if above is not None:
            below.setdefault(above, set()).update({part(name) for name in names} - {None, above})
    assert circle(below) == ""


def test_a_planted_import_is_seen():
    """The checks above would be empty if a late import or a part's own name slipped through."""
    late = ast.parse("def draw():\n    from dsf.cli.demo import main\n")
    public = ast.parse("import dsf\nfrom dsf import System\n")
    seen = {"dsf.report.page": imports("dsf.report.page", late)}
    assert upward(arrows(seen)) == {("report", "cli")}
    assert imports("dsf.report.page", public) == ["dsf", "dsf"]
    assert circle({"a": {"b"}, "b": {"a"}}) != ""


def test_names_say_what_they_hold():
    inside = [path.relative_to(PACKAGE) for path in FILES]
    assert [path for path in inside if path.stem in NAMELESS] == []
    assert [path for path in inside if NAMELESS_FOLDERS & set(path.parts[:-1])] == []


def test_no_module_bears_the_name_of_what_its_package_exports():
    """The import of the one would hide the other."""

    def exported(package: str) -> set[str]:
        froms = (node for node in tree_of(package).body if isinstance(node, ast.ImportFrom))
        return {
            f"{package}.{alias.asname or alias.name}"
            for node in froms
            for alias in node.names
            if f"{node.module}.{alias.name}" not in PATHS
        }

    packages = [name_of(path) for path in FILES if path.name == "__init__.py"]
    assert [
        sorted(exported(each) & {*PATHS}) for each in packages if exported(each) & {*PATHS}
    ] == []


def test_no_file_blinds_the_shape_checks():
    blind = "from __future__ import annotations"
    assert [name for name, path in PATHS.items() if blind in path.read_text("utf-8")] == []


def test_the_references_import_nothing_of_ours():
    references = (ROOT / "tests" / "references").rglob("*.py")
    trees = {path.name: ast.parse(path.read_text(encoding="utf-8")) for path in references}
    assert [name for name, tree in trees.items() if imports(name, tree)] == []


def test_extras_and_groups_are_the_same_sets():
    """Users install extras, developers groups: what one list gains the other must gain."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras, groups = project["project"]["optional-dependencies"], project["dependency-groups"]
    assert extras == {name: groups[name] for name in extras}


def test_public_names_are_few_and_found():
    assert len(dsf.__all__) <= 28
    assert all(getattr(dsf, name) is not None for name in dsf.__all__)
