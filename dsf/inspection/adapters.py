"""The adapters that read a module at its boundary: the only list."""

from dsf.inspection import mamba
from dsf.inspection.adapter import Adapter

ADAPTERS: tuple[Adapter, ...] = (mamba.ADAPTER,)
