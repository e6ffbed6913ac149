"""Decides properties of inspected layers, and stores and checks runs of them."""
