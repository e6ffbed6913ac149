"""One page for every public subpackage: its own sentence, a table of names, and every name."""

import inspect
from collections.abc import Iterator
from importlib import import_module
from inspect import isroutine
from types import ModuleType

import dsf

PACKAGE = """dsf
===

.. py:module:: dsf

The public names of the package itself. They are imported on first use, so that ``import dsf`` is
fast.

"""
INDEX = """API
===

Everything public, with links to its source. The architectures are in :doc:`dsf.mixers <mixers>`,
and the :doc:`gallery <../gallery/index>` has a picture of each.

.. toctree::
   :maxdepth: 1

   {pages}
"""


def pages() -> Iterator[tuple[str, str]]:
    """Paths and texts."""
    public = {name: getattr(dsf, name) for name in dsf.__all__}
    parts = {name: it for name, it in public.items() if isinstance(it, ModuleType)}
    parts |= {"inspection": import_module("dsf.inspection")}
    for name, part in tuple(parts.items()):
        inside = {each: getattr(part, each) for each in part.__all__}
        parts |= {f"{name}.{each}": it for each, it in inside.items() if isinstance(it, ModuleType)}
    listed = "\n   ".join(("package", *parts))
    yield "api/index.rst", INDEX.format(pages=listed)
    names = {name: it for name, it in public.items() if not isinstance(it, ModuleType)}
    yield "api/package.rst", PACKAGE + _entries("dsf", names)
    for name, part in parts.items():
        yield f"api/{name}.rst", _subpackage(name, part)


def _subpackage(name: str, part: ModuleType) -> str:
    title = f"dsf.{name}"
    sentence = (inspect.getdoc(part) or "").split("\n\n")[0]
    module = part.__name__
    head = f"{title}\n{'=' * len(title)}\n\n.. py:module:: {module}\n\n{sentence}\n\n"
    named = {each: getattr(part, each) for each in part.__all__ if each not in dsf.__all__}
    # Tables such as ALL have pages of their own, which show them better than their text.
    public = {
        each: thing for each, thing in named.items() if isinstance(thing, type) or isroutine(thing)
    }
    return head + _entries(module, public)


def _entries(module: str, public: dict[str, object]) -> str:
    """A table of names and an entry for each."""
    table = "\n".join(f"   {name}" for name in public)
    entries = "\n".join(_entry(f"{module}.{name}", thing) for name, thing in public.items())
    return f".. autosummary::\n   :nosignatures:\n\n{table}\n\n{entries}\n"


def _entry(path: str, thing: object) -> str:
    if isinstance(thing, type):
        entry = f".. autoclass:: {path}\n   :members:\n   :exclude-members: __init__\n"
    else:
        entry = f".. autofunction:: {path}\n"
    return f"{_anchors(path, thing)}\n{entry}"


def _anchors(path: str, thing: object) -> str:
    """Other names of a thing, public or of its subpackages: pages of source link to any of them."""
    *packages, name = path.split(".")
    above = [".".join(packages[:depth]) for depth in range(1, len(packages))]
    parts = [each for each in vars(thing) if each[0] != "_"] if isinstance(thing, type) else []
    if name in dsf.__all__:
        home = thing.__module__.split(".")
        above += [".".join(home[:depth]) for depth in range(2, len(home) + 1)]
    ids = [
        f"{other}.{each}"
        for other in above
        for each in (name, *(f"{name}.{part}" for part in parts))
    ]
    return ".. raw:: html\n\n   " + "".join(f'<span id="{each}"></span>' for each in ids) + "\n"
