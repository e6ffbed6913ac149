"""The house of the package: imports point down, files are small, names say what they hold.

Imports are read from the syntax trees, those inside functions included: a late import is still an
arrow. What is not listed in ``LANDINGS`` is not part of the house.
"""

import ast
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "dsf"

# Lowest first. Rooms on one landing do not see each other.
LANDINGS: tuple[tuple[str, ...], ...] = (
    ("shapes", "kernels", "saving", "threads", "distribution"),
    ("transition",),
    ("coefficient",),
    ("system", "solve"),
    ("composite",),
    ("ingredients",),
    ("evaluate", "algebra"),
    ("mixers", "measures", "realisation", "scans"),
    ("certificates", "layers", "models"),
    ("inspection",),
    ("report", "claims", "jobs", "exchange"),
    ("plot",),
    ("cli",),
    ("__main__",),
)
FLOOR = {room: floor for floor, rooms in enumerate(LANDINGS) for room in rooms}

# Arrows that may point up, each with its reason.
HANDS_UP: dict[tuple[str, str], str] = {}
# Arrows that point down and are still wrong: an architecture does not say how it is computed.
STRANGERS = {("mixers", "evaluate")}

LONGEST_FILE = 250
# The trusted base of every verdict is one file on purpose, so that one reading covers it.
LONGEST_CHECKER = 700
CHECKER = PACKAGE / "certificates" / "checker.py"

NAMELESS = {"utils", "util", "common", "helpers", "helper", "core", "misc"}
NAMELESS_FOLDERS = NAMELESS | {"base"}

FILES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    """``dsf/solve/prefix.py`` is ``dsf.solve.prefix``; a folder's ``__init__`` is the folder."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def imports(module: str, tree: ast.Module) -> Iterator[str]:
    """Every module of this package that a tree names, as far down as it names it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            named = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            raise AssertionError(f"{module}: write the import in full, from dsf.<room>.")
        elif isinstance(node, ast.ImportFrom):
            below = [f"{node.module}.{alias.name}" for alias in node.names]
            named = [name if name in TREES else node.module for name in below]
        else:
            continue
        yield from (name for name in named if name.partition(".")[0] == "dsf")


def room(module: str) -> str:
    """The room a module belongs to; the face of the package is the room ``dsf``."""
    return module.split(".")[1] if "." in module else module


def arrows(trees: dict[str, ast.Module]) -> set[tuple[str, str]]:
    """Pairs of different rooms, the importing one first. The face may see every room."""
    pairs = {
        (room(above), room(below)) for above in trees for below in imports(above, trees[above])
    }
    return {(above, below) for above, below in pairs if above not in (below, "dsf")}


def upward(pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    return {(above, below) for above, below in pairs if FLOOR.get(below, 99) >= FLOOR[above]}


def test_every_room_has_a_floor():
    assert {room(module) for module in TREES} - {"dsf"} <= set(FLOOR)


def test_imports_point_down():
    assert upward(arrows(TREES)) <= set(HANDS_UP)


def test_an_exception_that_nobody_uses_is_an_error():
    assert set(HANDS_UP) <= upward(arrows(TREES))


def test_strangers_do_not_meet():
    assert not STRANGERS & arrows(TREES)


def test_nobody_imports_the_face():
    inside = {module: tree for module, tree in TREES.items() if module != "dsf"}
    assert [module for module, tree in inside.items() if "dsf" in imports(module, tree)] == []


def test_imports_run_in_no_circle():
    graph = {
        module: {name for name in imports(module, tree) if name != module}
        for module, tree in TREES.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"imports run in a circle: {' -> '.join(error.args[1])}")


def test_a_planted_arrow_is_seen():
    """The checks above would be empty if a late import or a room's own name slipped through."""
    late = ast.parse("def draw():\n    from dsf.cli.demo import main\n")
    face = ast.parse("import dsf\nfrom dsf import System\n")
    assert upward(arrows({"dsf.report.page": late})) == {("report", "cli")}
    assert list(imports("dsf.report.page", face)) == ["dsf", "dsf"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_stays_short(path):
    limit = LONGEST_CHECKER if path == CHECKER else LONGEST_FILE
    assert len(path.read_text(encoding="utf-8").splitlines()) <= limit


def test_names_say_what_they_hold():
    inside = [path.relative_to(PACKAGE) for path in FILES]
    assert [path for path in inside if path.stem in NAMELESS] == []
    assert [path for path in inside if NAMELESS_FOLDERS & set(path.parts[:-1])] == []


def test_no_module_bears_the_name_of_what_its_room_exports():
    """The import of the one would hide the other."""

    def exported(room_face: str) -> set[str]:
        froms = (node for node in TREES[room_face].body if isinstance(node, ast.ImportFrom))
        return {
            f"{room_face}.{alias.asname or alias.name}"
            for node in froms
            for alias in node.names
            if f"{node.module}.{alias.name}" not in TREES
        }

    rooms = [name_of(path) for path in FILES if path.name == "__init__.py"]
    assert [
        sorted(exported(face) & set(TREES)) for face in rooms if exported(face) & set(TREES)
    ] == []


def test_no_file_blinds_the_shape_checks():
    def futures(tree: ast.Module) -> list[str]:
        return [
            alias.name
            for node in tree.body
            if isinstance(node, ast.ImportFrom) and node.module == "__future__"
            for alias in node.names
        ]

    assert [name for name, tree in TREES.items() if "annotations" in futures(tree)] == []


def test_the_references_import_nothing_of_ours():
    references = (ROOT / "tests" / "references").rglob("*.py")
    trees = {path.name: ast.parse(path.read_text(encoding="utf-8")) for path in references}
    assert [name for name, tree in trees.items() if list(imports(name, tree))] == []


def test_extras_and_groups_are_the_same_sets():
    """Users install extras, developers groups: what one list gains the other must gain."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras, groups = project["project"]["optional-dependencies"], project["dependency-groups"]
    assert extras == {name: groups[name] for name in extras}
