"""Public names of packages: each is written once, and some are imported on first use.

The public names of a package are what its ``__init__`` imports as themselves (``from .. import name
as name``), which is how type checkers read it, too. The command line checks what a person typed
before anything heavy is imported; what it needs for that is in files of packages whose other files
import torch. ``finding`` keeps these files light.
"""

import ast
import inspect
import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any


@cache
def _imports(package: str) -> list[tuple[str, ast.alias]]:
    """The names that a package imports, each with its home."""
    tree = ast.parse(inspect.getsource(sys.modules[package]))
    imports = [each for each in ast.walk(tree) if isinstance(each, ast.ImportFrom)]
    return [(str(each.module), name) for each in imports for name in each.names]


def public_names(package: str) -> list[str]:
    """Return the names that a package imports as themselves, for its ``__all__``."""
    return sorted(one.name for _, one in _imports(package) if one.asname == one.name)


def finding(package: str) -> Callable[[str], Any]:
    """Return a ``__getattr__`` that imports what a package imports under ``TYPE_CHECKING``."""

    def homes() -> dict[str, tuple[str, str]]:
        return {one.asname or one.name: (home, one.name) for home, one in _imports(package)}

    def find(name: str) -> Any:
        if name == "__all__":
            return public_names(package)
        if name.startswith("__") or name not in homes():
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        home, own = homes()[name]
        found = None if home == package else getattr(import_module(home), own, None)
        return import_module(f"{home}.{own}") if found is None else found

    return find


def library(owner: str, name: str, install: str) -> Any:
    """Import a library that not everybody has, or say how to install it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ModuleNotFoundError(
            f"{owner}: needs {name}, which is not installed ({error}): pip install {install}."
        ) from None
