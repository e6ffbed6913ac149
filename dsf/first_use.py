"""Names of a package that are found on first use, so that importing one of its files costs little.

The command line looks at what a person typed before anything heavy is imported; what it needs for
that stands in files of packages whose other files import torch.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def finding(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """A module-level ``__getattr__`` for the public names of ``package``.

    Args:
        homes: of every name the module that has it.

    Raises:
        AttributeError: from the returned function, for a name that nothing knows.
    """

    def find(name: str) -> Any:
        if name in homes:
            return getattr(import_module(homes[name]), name)
        raise AttributeError(f"module '{package}' has no attribute '{name}'")

    return find
