"""The command line: parse, call, print."""

import sys

__all__ = ["main"]

INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave with an exit code."""
    try:
        from dsf.cli import entry

        entry.main(arguments)
    except KeyboardInterrupt:  # before the commands are there, or after their answer
        print("dsf: interrupted.", file=sys.stderr)
        sys.exit(INTERRUPTED)
