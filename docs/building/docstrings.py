"""Docstrings of this package on pages: equations are set apart by indentation alone."""

import re

from sphinx.application import Sphinx

BEFORE_NAPOLEON = 400
SECTION = ":"
# A bar at the start of a word means a substitution to Sphinx; here it is a magnitude.
BAR = re.compile(r"(?<![`\w\\])\|(?=\w)")


def setup(app: Sphinx) -> dict[str, bool]:
    """Read docstrings before their sections are."""
    app.connect("autodoc-process-docstring", _prepare, priority=BEFORE_NAPOLEON)
    return {"parallel_read_safe": True}


def _prepare(
    _app: Sphinx, _what: str, _name: str, _it: object, _options: object, lines: list[str]
) -> None:
    lines[:] = with_literal_blocks([BAR.sub(r"\\|", line) for line in lines])


def with_literal_blocks(lines: list[str]) -> list[str]:
    """The same lines with ``::`` before every indented block that stands after a paragraph.

    >>> with_literal_blocks(["The rule:", "", "A paragraph", "", "    h = A h", "", "and more."])
    ['The rule:', '', 'A paragraph', '', '::', '', '    h = A h', '', 'and more.']
    """
    found: list[str] = []
    before = ""
    for k, line in enumerate(lines):
        starts = bool(line.strip()) and k > 0 and not lines[k - 1].strip()
        doctest = line.lstrip().startswith(">>>")
        continues = before.rstrip().endswith(SECTION) or before.lstrip().startswith((">>>", "- "))
        if starts and not doctest and not continues and _margin(line) > _margin(before):
            found += [" " * _margin(before) + "::", ""]
        found.append(line)
        before = line if line.strip() else before
    return found


def _margin(line: str) -> int:
    return len(line) - len(line.lstrip())
