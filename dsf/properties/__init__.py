"""Properties of what an inspection found: which hold, with verdicts and their evidence."""

from dsf.properties.adapter_laws import check_adapter

__all__ = ["check_adapter"]
