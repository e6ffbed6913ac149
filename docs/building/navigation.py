"""The tree of pages in the sidebar of every page, made in a fraction of the time.

The tree names pages, and none of their sections. For each page Sphinx copies the sections of all
others before it drops them; here they are dropped once.
"""

from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

BEFORE_THE_THEME = 400


def setup(app: Sphinx) -> dict[str, bool]:
    """Give the theme a tree of titles where it asks for one."""
    app.connect("html-page-context", _titled, priority=BEFORE_THE_THEME)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _titled(
    app: Sphinx, _page: str, _template: str, context: dict[str, Any], _tree: object
) -> None:
    whole = context.get("toctree")
    if whole is None:
        return

    def toctree(**options: Any) -> str:
        if not options.get("titles_only"):
            return whole(**options)
        contents = app.env.tocs
        app.env.tocs = _without_sections(app)
        try:
            return whole(**options)
        finally:
            app.env.tocs = contents

    context["toctree"] = toctree


def _without_sections(app: Sphinx) -> dict[str, nodes.bullet_list]:
    """The contents of all pages, kept with the application once they are all read."""
    if not hasattr(app, "titles_of_pages"):
        app.titles_of_pages = {page: _pruned(tree) for page, tree in app.env.tocs.items()}
    return app.titles_of_pages


def _pruned(contents: nodes.bullet_list) -> nodes.bullet_list:
    """Without lists of sections in which no other page is named."""
    kept = contents.deepcopy()
    for inner in list(kept.findall(nodes.bullet_list)):
        if inner.parent is not None and not any(inner.findall(addnodes.toctree)):
            inner.parent.remove(inner)
    return kept
