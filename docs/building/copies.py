"""Pages that live elsewhere in the repository: links within this site stay, others become words."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
GENERATED = DOCS / "_generated"
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#:\s]+)(#[^)]*)?\)")


def sources() -> dict[Path, Path]:
    """What is copied, and to which place under ``_generated``."""
    found = {ROOT / name: Path(name.lower()) for name in ("CHANGELOG.md", "CONTRIBUTING.md")}
    found |= {
        path: Path("experiments") / path.parent.name / f"{path.stem.lower()}.md"
        for pattern in ("experiments/*/*.md", "papers/*/experiments/*/*.md")
        for path in sorted(ROOT.glob(pattern))
    }
    found |= {
        path: Path("notebooks") / path.name
        for path in sorted(ROOT.glob("notebooks/students/*.ipynb"))
    }
    return found


def pages() -> Iterator[tuple[str, str | bytes]]:
    """The copies, the pictures they show, and a page that lists each kind."""
    places = sources()
    for path, place in places.items():
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            yield str(place), text
            continue
        yield (
            str(place),
            LINK.sub(
                lambda found, path=path, place=place: _relinked(found, path, place, places), text
            ),
        )
        for picture in path.parent.glob("*.png"):
            yield str(place.with_name(picture.name)), picture.read_bytes()
    helper = ROOT / "notebooks" / "students" / "exercises.py"
    yield "notebooks/exercises.py", helper.read_text(encoding="utf-8")  # the notebooks import it
    for kind in LISTS:
        yield (
            f"{kind}/index.md",
            _list(kind, [place for place in places.values() if place.parts[0] == kind]),
        )


LISTS = {
    "notebooks": """# Notebooks

A course about sequence models, for one term: [](../../syllabus.md) plans it. Every notebook runs in
less than a minute and, but for the last one, downloads nothing. Each has three exercises, with
graded hints and cells that say what is wrong with an answer. To work through them:

    pip install ".[hf,proof,notebooks]"
    jupyter lab notebooks/students

Solutions are in `notebooks/teachers`. On these pages the notebooks are shown as students get them,
with their results where the site was built with `make docs`.
""",
    "experiments": """# Experiments

Each experiment answers one question. Its folder has the configuration, the seeds and the results.
""",
}


def _list(kind: str, places: list[Path]) -> str:
    names = "\n".join(str(place.relative_to(kind).with_suffix("")) for place in places)
    return f"{LISTS[kind]}\n```{{toctree}}\n:maxdepth: 1\n\n{names}\n```\n"


def _relinked(found: re.Match[str], path: Path, place: Path, places: dict[Path, Path]) -> str:
    """A link from the new place to the same thing, or its words alone if that is not a page."""
    picture, words, target, anchor = found.groups()
    meant = (path.parent / target).resolve()
    if meant in places:
        new = GENERATED / places[meant]
    elif meant.exists() and meant.suffix in (".md", ".png") and meant.is_relative_to(DOCS):
        new = meant
    elif picture and meant.exists():
        return found[0]
    else:
        return words
    relative = os.path.relpath(new, (GENERATED / place).parent)
    return f"{picture}[{words}]({relative}{anchor or ''})"
