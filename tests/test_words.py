"""Words that a reader of the field has to decode stay out of the package and its pages."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAX_USES = 5
"""Maximum number of uses of a word in a folder: quoted texts, and what a rule cannot judge."""
SUFFIXES = {".py", ".js", ".css", ".j2", ".md"}
WORDS = {
    "told": r"\btold\b",
    "put out": r"\bput(s|ting)? out\b",
    "beside": r"\bbeside\b",
    "is no": r"(?<!there )\b(is|are) no\b(?! longer)",
}
# Written from recorded runs: messages of the releases at which they were made, quotes of papers.
RECORDED = {"any_code.md", "papers.md"}
BUILT = {"_build", "_generated", "__pycache__"}


def texts(folder: str) -> list[str]:
    """Every text below a folder, in small letters, without line breaks."""
    return [
        " ".join(path.read_text(encoding="utf-8").lower().split())
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in SUFFIXES and path.name not in RECORDED and not BUILT & {*path.parts}
    ]


@pytest.mark.parametrize("folder", ["dsf", "docs"])
def test_retired_words_stay_out(folder):
    if not (ROOT / folder).is_dir():
        pytest.skip("needs the checkout")
    found = texts(folder)
    uses = {
        word: sum(len(re.findall(form, text)) for text in found) for word, form in WORDS.items()
    }
    assert {word: count for word, count in uses.items() if count > MAX_USES} == {}


def test_what_reads_well_is_let_through():
    assert not re.search(WORDS["is no"], "there is no limit, and it is no longer there")
    assert re.search(WORDS["is no"], "this is no layer")
    assert not re.search(WORDS["beside"], "besides tokens")
