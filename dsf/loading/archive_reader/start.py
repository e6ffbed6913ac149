"""Starts the child process without importing the packages around this one.

Those import torch, which takes seconds and has an unpickler.
"""

import sys
from pathlib import Path
from types import ModuleType

_HOME = "dsf.loading.archive_reader"


def name_packages_without_running_them() -> None:
    """Register an empty module, with its folder, for each package that contains this file."""
    package, folder = _HOME, Path(__file__).resolve().parent
    while package:
        module = ModuleType(package)
        module.__path__ = [str(folder)]
        sys.modules[package] = module
        package, folder = package.rpartition(".")[0], folder.parent


if __name__ == "__main__":
    name_packages_without_running_them()
    from dsf.loading.archive_reader.process import main

    main(*sys.argv[1:])
