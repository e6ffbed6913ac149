"""Old import paths of earlier releases, redirected to where the modules and names are now.

A module that moved can still be imported under its old name and is the same object; so can a name
that a package used to export. The package itself imports nothing by these old paths.
"""

import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MODULES = {
    "dsf.inspection.chain": "dsf.inspection.whole.stages",
    "dsf.inspection.checking": "dsf.properties.decided",
    "dsf.inspection.loading": "dsf.loading",
    "dsf.inspection.measuring": "dsf.inspection.results.measurements",
    "dsf.inspection.pieces": "dsf.inspection.families.shared",
    "dsf.inspection.stacking": "dsf.network",
}
NAMES = {
    "dsf.inspection": {
        "Stack": "dsf.network",
        "check_adapter": "dsf.properties",
        "stack": "dsf.network",
    }
}


class _Redirect(MetaPathFinder, Loader):
    """Import hook for old module names. It is the first finder: a folder that a checkout left

    behind, empty but for caches, would otherwise be imported under the old name.
    """

    def find_spec(
        self, name: str, path: Iterable[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        return ModuleSpec(name, self) if name in MODULES else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(MODULES[spec.name])
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """The module has already run under its new name; only restore its import specification."""
        spec = module.__spec__
        if spec is not None and spec.loader is self:
            module.__spec__ = spec.loader_state


def install() -> None:
    """Make the old module paths importable, once."""
    if not any(isinstance(finder, _Redirect) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Redirect())


def forwarding(package: str) -> Callable[[str], Any]:
    """A module-level ``__getattr__`` for the names that ``package`` used to export."""

    def find(name: str) -> Any:
        if name not in NAMES[package]:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        return getattr(import_module(NAMES[package][name]), name)

    return find
