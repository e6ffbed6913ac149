"""Import paths that documentation once showed still lead to the same objects."""

import subprocess
import sys
from importlib import import_module

import pytest

import dsf
from dsf import moved


@pytest.mark.parametrize("old", moved.MODULES)
def test_an_old_module_path_gives_the_module_itself(old):
    module = import_module(old)
    assert module is import_module(moved.MODULES[old])
    assert module.__spec__.name == module.__name__ == moved.MODULES[old]


@pytest.mark.parametrize(
    ("package", "name"),
    [(package, name) for package in moved.NAMES for name in moved.NAMES[package]],
)
def test_an_old_name_gives_the_object_itself(package, name):
    home = import_module(moved.NAMES[package][name])
    assert getattr(import_module(package), name) is getattr(home, name)


def test_other_names_are_still_errors():
    with pytest.raises(AttributeError, match=r"module 'dsf.inspection' has no attribute 'stacks'"):
        dsf.inspection.stacks  # noqa: B018
    with pytest.raises(ModuleNotFoundError, match=r"dsf.inspection.chains"):
        import_module("dsf.inspection.chains")


def test_old_paths_work_first_in_a_new_process():
    """Whatever is imported first, the old path is found."""
    code = (
        "from dsf.inspection.chain import Chain\n"
        "from dsf.inspection.loading import open_piecewise\n"
        "from dsf.inspection import stack, check_adapter\n"
        "import dsf\n"
        "assert dsf.stack is stack and dsf.check_adapter is check_adapter\n"
        "assert Chain.__module__ == 'dsf.inspection.whole.stages'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
