"""Everything under ``docs/_generated``, made anew before Sphinx reads the pages."""

from pathlib import Path

from sphinx.application import Sphinx

from docs.building import api, catalogue, copies, gallery


def setup(app: Sphinx) -> dict[str, bool]:
    """Write when the builder is there."""
    app.connect("builder-inited", _write)
    return {"parallel_read_safe": True}


def _write(app: Sphinx) -> None:
    folder = Path(app.srcdir) / "_generated"
    for make in (api, catalogue, copies, gallery):
        for path, content in make.pages():
            _keep(folder / path, content)


def _keep(path: Path, content: str | bytes) -> None:
    """Leave a file alone that says the same already: Sphinx reads again what is newer."""
    told = content.encode() if isinstance(content, str) else content
    if not path.exists() or path.read_bytes() != told:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(told)
