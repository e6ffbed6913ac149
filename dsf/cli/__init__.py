"""The command line: parse, call, print."""

from dsf.cli.entry import main

__all__ = ["main"]
