"""Decides properties of inspected layers and of adapters, with verdicts and evidence."""

from dsf.properties.adapter_laws import check_adapter

__all__ = ["check_adapter"]
