"""Reads mixers that no adapter knows, by replacing their values with unit values."""
