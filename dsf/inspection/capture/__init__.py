"""Runs a model without changing it and records the inputs and outputs of its modules."""
