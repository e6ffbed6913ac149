"""Joins the viewer's scripts and style sheets: plain files in one scope, without a build step."""

from functools import cache
from importlib.resources import files

# In loading order: a file may use the constants of those before it.
EXPLORER = (
    "codes", "text", "colours", "canvas", "marks", "about", "charts", "tables",
    "controls", "shares", "pane", "stage", "overview", "app",
)  # fmt: skip


def script_of(code: str) -> str:
    """A script for a page, in strict mode and without global names."""
    return f'(() => {{\n"use strict";\n{code}\n}})();\n'


def module_of(*names: str, sheet: str) -> str:
    """A module for a notebook; its style sheet is the constant ``SHEET``."""
    quoted = sheet.replace("\\", "\\\\").replace("`", "\\`").replace("${", "\\${")
    return f"const SHEET = `{quoted}`;\n{code_of(*names)}\n"


def style_of(*names: str) -> str:
    return "\n".join(file_of(f"{name}.css") for name in names)


@cache
def file_of(name: str, folder: str = "viewer") -> str:
    return (files("dsf.report") / folder / name).read_text(encoding="utf-8")


def code_of(*names: str, folder: str = "viewer") -> str:
    return "\n".join(file_of(f"{name}.js", folder) for name in names)
