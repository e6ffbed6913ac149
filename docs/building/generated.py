"""Everything under ``docs/_generated``, made anew before Sphinx reads the pages."""

from pathlib import Path

from sphinx.application import Sphinx

from docs.building import api, catalogue, concepts, copies, gallery, inputs


def setup(app: Sphinx) -> dict[str, bool]:
    """Write the pages once the builder is ready."""
    app.connect("builder-inited", _write)
    return {"parallel_read_safe": True}


def _write(app: Sphinx) -> None:
    folder = Path(app.srcdir) / "_generated"
    made = set()
    for make in (api, catalogue, concepts, copies, gallery, inputs):
        for path, content in make.pages():
            _keep(folder / path, content)
            made.add(folder / path)
    for path in folder.rglob("*.*"):
        if path.is_file() and path not in made:
            path.unlink()  # of an earlier build, under a name that is no longer used


def _keep(path: Path, content: str | bytes) -> None:
    """Leave a file alone whose content is the same already: Sphinx rereads what is newer."""
    encoded = content.encode() if isinstance(content, str) else content
    if not path.exists() or path.read_bytes() != encoded:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded)
