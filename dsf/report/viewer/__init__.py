"""The explorer's own files, put together: plain scripts that share one scope, no build step."""

from functools import cache
from importlib.resources import files

# In the order in which they are read: a file uses the constants of those before it.
EXPLORER = (
    "codes",
    "text",
    "colours",
    "canvas",
    "map_views",
    "labels",
    "marks",
    "profiles",
    "about",
    "pointer",
    "token_strip",
    "charts",
    "state",
    "verdicts",
    "tables",
    "search",
    "controls",
    "pane",
    "stage",
    "overview",
    "app",
)


def script_of(*names: str) -> str:
    """A script for a page: strict, and with no name left outside."""
    return f'(() => {{\n"use strict";\n{_joined(names)}\n}})();\n'


def module_of(*names: str, sheet: str) -> str:
    """A module for a notebook, which finds its style in ``SHEET``."""
    quoted = sheet.replace("\\", "\\\\").replace("`", "\\`").replace("${", "\\${")
    return f"const SHEET = `{quoted}`;\n{_joined(names)}\n"


def style_of(*names: str) -> str:
    """Style sheets, one after the other."""
    return "\n".join(file_of(f"{name}.css") for name in names)


@cache
def file_of(name: str) -> str:
    """The text of one file of this folder."""
    return (files("dsf.report") / "viewer" / name).read_text(encoding="utf-8")


def _joined(names: tuple[str, ...]) -> str:
    return "\n".join(file_of(f"{name}.js") for name in names)
