"""Formulas as MathML, which browsers draw by themselves: nothing is fetched, no script runs."""

from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer and choose it."""
    app.add_html_math_renderer(
        "mathml", inline_renderers=(inline, None), block_renderers=(block, None)
    )
    app.config["html_math_renderer"] = "mathml"
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def inline(writer: Any, node: nodes.math) -> None:
    """A formula within a line."""
    writer.body.append(_drawn(node.astext(), display="inline"))
    raise nodes.SkipNode


def block(writer: Any, node: nodes.math_block) -> None:
    """A formula on a line of its own."""
    writer.body.append(f'<div class="math-block">{_drawn(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def _drawn(latex: str, *, display: str) -> str:
    try:
        return convert(latex, display=display)
    except Exception as error:
        raise ExtensionError(f"{latex!r}: expected a formula of LaTeX: {error}") from error
