"""Adapters for the token mixers of other libraries, one module for each, and their list."""
