"""Docstrings as Markdown."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from docs.building.formulas import formulas, latex

PREPRINT = re.compile(r"arXiv:(\d{4}\.\d{4,5})")
ROLE = re.compile(r":math:`([^`]*)`")
SET = re.compile(r"(`+[^`]*`+|\$[^$]*\$)")
"""Code and formulas within a sentence."""
SYMBOL = re.compile(r"(?<!\w)[^\W\d_]_(?:\{[^}]*\}|[a-z0-9]{1,2})[ᵀᴴ]?(?!\w)")
"""A letter with an index, such as k_t, within a sentence."""


def paragraphs(module: ModuleType) -> list[str]:
    """Those of a module's docstring."""
    tree = ast.parse(Path(inspect.getsourcefile(module) or "").read_text(encoding="utf-8"))
    return re.split(r"\n\n+", ast.get_docstring(tree) or "")


def markdown(parts: list[str]) -> str:
    """Paragraphs as Markdown: what is indented is an equation, preprints are links."""
    return "\n\n".join(_written(parts))


def _written(parts: list[str]) -> Iterator[str]:
    for part in parts:
        if part.startswith("    "):
            yield from (f"$$\n{formula}\n$$" for formula in formulas(part))
        else:
            yield linked(part)


def linked(text: str) -> str:
    """Preprints as links, formulas between dollars, and stars that are stars."""
    text = ROLE.sub(r"$\1$", text.replace("*", r"\*"))
    parts = SET.split(text)
    parts[::2] = (SYMBOL.sub(lambda found: f"${latex(found[0])}$", part) for part in parts[::2])
    text = "".join(parts)
    return PREPRINT.sub(r"[arXiv:\1](https://arxiv.org/abs/\1)", text)


def cell(text: str) -> str:
    """A text within a table."""
    return " ".join(text.split()).replace("|", r"\|")
