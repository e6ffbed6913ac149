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
    def homes() -> dict[str, str]:
        tree = ast.parse(inspect.getsource(sys.modules[package]))
        imports = [each for each in ast.walk(tree) if isinstance(each, ast.ImportFrom)]
        return {name.name: str(each.module) for each in imports for name in each.names}

    def find(name: str) -> Any:
        if name.startswith("__") or (home := homes().get(name)) is None:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        if home == package:
            return import_module(f"{package}.{name}")
        return getattr(import_module(home), name)

    return find


def library(owner: str, name: str, install: str) -> Any:
    """Import a library that not everybody has, or say how to install it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ModuleNotFoundError(
            f"{owner}: needs {name}, which is not installed ({error}): pip install {install}."
        ) from None
