"""What a run depends on: package versions, dtype and device."""

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import nn

from dsf.inspection.capture.precision import dtype_of
from dsf.runtime.distribution import VERSION


def environment(model: nn.Module) -> dict[str, str]:
    """The facts that another machine needs to repeat the run of ``model``."""
    facts = {
        "dsf": VERSION,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": release("transformers"),
        "dtype": str(dtype_of(model)).removeprefix("torch."),
        "device": str(next((part.device for part in model.parameters()), "cpu")),
    }
    return {name: fact for name, fact in facts.items() if fact}


@cache
def release(package: str) -> str:
    """The installed version of ``package``, empty where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def class_path(cls: type) -> str:
    """``package.module.Class``."""
    return f"{cls.__module__}.{cls.__qualname__}"


def described(module: nn.Module) -> str:
    """``package.module.Class, package 1.2``: how error messages name ``module``."""
    kind = class_path(type(module))
    package = kind.partition(".")[0]
    return f"{kind}, {package} {release(package)}" if release(package) else kind
