"""One page for every public room: its own sentence, a table of names, and every name."""

import inspect
from collections.abc import Iterator
from importlib import import_module
from inspect import isroutine
from types import ModuleType

import dsf

FACE = """dsf
===

.. py:module:: dsf

Names are found on first use, so that ``import dsf`` costs nothing.

"""
INDEX = """API
===

Everything public, with links to its source. Architectures stand in :doc:`dsf.mixers <mixers>`,
each with a picture in the :doc:`gallery <../gallery/index>`.

.. toctree::
   :maxdepth: 1

   {rooms}
"""


def pages() -> Iterator[tuple[str, str]]:
    """Paths and texts."""
    rooms = {name: import_module(place) for name, place in dsf._ROOMS.items()}
    rooms |= {"inspection": import_module("dsf.inspection")}
    listed = "\n   ".join(("face", *rooms))
    yield "api/index.rst", INDEX.format(rooms=listed)
    face = {name: getattr(dsf, name) for name in dsf._HOME}
    yield "api/face.rst", FACE + _entries("dsf", face)
    for name, room in rooms.items():
        yield f"api/{name}.rst", _room(name, room)


def _room(name: str, room: ModuleType) -> str:
    title = f"dsf.{name}"
    sentence = (inspect.getdoc(room) or "").split("\n\n")[0]
    module = room.__name__
    head = f"{title}\n{'=' * len(title)}\n\n.. py:module:: {module}\n\n{sentence}\n\n"
    named = {each: getattr(room, each) for each in room.__all__ if each not in dsf._HOME}
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
    """The other name of a thing, the public or the room's: pages of source link back to either."""
    name = path.rpartition(".")[2]
    other = dsf._HOME.get(name, "dsf")
    parts = [each for each in vars(thing) if each[0] != "_"] if isinstance(thing, type) else []
    ids = [f"{other}.{name}", *(f"{other}.{name}.{part}" for part in parts)]
    return ".. raw:: html\n\n   " + "".join(f'<span id="{each}"></span>' for each in ids) + "\n"
