"""What the founding papers say, what their released code does, and which of it holds.

One folder for each paper: ``statements.toml`` (data), ``checks.py`` (a function for each statement
that can be decided), ``README.md`` and ``experiments/``. Only the public names of ``dsf`` are used.
``python -m papers`` decides all of it.
"""

from papers.statements import (
    ALL,
    MEANINGS,
    PAPERS,
    Outcome,
    Paper,
    Standing,
    Statement,
    Table,
    chosen,
    decide,
    decide_all,
    plain,
)

__all__ = [
    "ALL",
    "MEANINGS",
    "PAPERS",
    "Outcome",
    "Paper",
    "Standing",
    "Statement",
    "Table",
    "chosen",
    "decide",
    "decide_all",
    "plain",
]
