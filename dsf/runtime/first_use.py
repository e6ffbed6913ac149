"""Public names of a package that are imported on first use, so that its light files stay light.

The command line checks what a person typed before anything heavy is imported; what it needs for
that is in files of packages whose other files import torch.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def finding(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a module-level ``__getattr__`` that imports public names from their ``homes``."""

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        home = import_module(homes[name])
        return home if homes[name] == f"{package}.{name}" else getattr(home, name)

    return find
