"""Public names of a package that are imported on first use, so that its light files stay light.

The command line checks what a person typed before anything heavy is imported; what it needs for
that is in files of packages whose other files import torch.
"""

import ast
import inspect
import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any


def finding(package: str) -> Callable[[str], Any]:
    """Return a ``__getattr__`` that imports what a package imports under ``TYPE_CHECKING``."""

    @cache
    def homes() -> dict[str, tuple[str, str]]:
        tree = ast.parse(inspect.getsource(sys.modules[package]))
        imports = [each for each in ast.walk(tree) if isinstance(each, ast.ImportFrom)]
        return {
            name.asname or name.name: (str(each.module), name.name)
            for each in imports
            for name in each.names
        }

    def find(name: str) -> Any:
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
