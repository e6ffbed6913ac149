"""Starts a child process without importing the packages around its program.

Those import torch, which takes seconds and has an unpickler. The first argument names the program,
a module of this package with a function ``answer``; it is given the request, a JSON object on the
standard input, and its answer goes as JSON to the standard output.
"""

import json
import os
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

_ROOT = "dsf"


def name_packages_without_running_them(program: str) -> None:
    """Register an empty module, with its folder, for each package that contains ``program``."""
    root = Path(__file__).resolve().parents[2]
    package = program.rpartition(".")[0]
    while package:
        module = ModuleType(package)
        module.__path__ = [str(root.joinpath(*package.split(".")[1:]))]
        sys.modules[package] = module
        package = package.rpartition(".")[0]


def main(program: str) -> None:
    """Answer one request."""
    name_packages_without_running_them(program)
    request = json.load(sys.stdin)
    # What libraries print must not stand in the answer.
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    json.dump(import_module(program).answer(request), channel)
    channel.flush()


if __name__ == "__main__":
    main(sys.argv[1])
