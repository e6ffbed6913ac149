"""Adapters between systems and the compiled CPU loops, which take plain arrays."""
