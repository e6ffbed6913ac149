"""Nothing is ascribed to a paper that its text was found not to state."""

import re
from pathlib import Path

import pytest

from dsf import claims
from dsf.claims import Table

ROOT = Path(__file__).resolve().parents[2]
BY_ID = {claim.id: claim for claim in claims.ALL}
# For these no sentence of the paper was found, or only a definition or a neighbouring one.
NOT_STATED = tuple(
    f"{paper}-{number}"
    for paper, numbers in {
        "DSF": (6, 7, 8, 9, 12, 13, 14, 15, 17, 18, 20, 21, 22, 23, 25),
        "CDY": (3, 5, 7),
        "EIG": (1,),
        "INL": (2, 4, 5, 6, 8, 9, 12, 13, 15, 16, 18, 20, 22, 24),
        "MLA": (5, 9, 10, 11, 12, 14, 15, 17, 20, 21, 23, 26),
        "ZER": (5, 10, 13, 18, 20),
    }.items()
    for number in numbers
)
# What was once said of a paper, by the id it was said under.
PHRASES = {
    "DSF-2": "a review of the paper prints|normaliser of the previous token",
    "DSF-6": "even at a fixed length",
    "DSF-13": "key feature ψ that is a function|ssd is linear attention with a key feature",
    "DSF-15": "all channels, is one separable attention",
    "DSF-17": "eigenvalues of a(_[it])? are a property of the",
    "DSF-19": "is the criterion of stability",
    "DSF-21": "rank of the causal attention map measures",
    "DSF-26": "recall consists of 1304 runs",
    "DSF-27": "better on long sequences|what the papers say, and the medians",
    "CDY-1": "with a ≠ i they are not",
    "CDY-4": "only a linear φ has a finite",
    "CDY-7": "feature map has coefficients of the form φ",
    "EIG-6": "selective tasks near 0",
    "INL-2": "needs rank k = d besides",
    "INL-4": "whatever its feature map",
    "INL-7": "in its query for every kernel",
    "INL-8": "causal softmax attention is injective in every row",
    "INL-15": "printed formulas, with scale 1",
    "INL-16": "inline attention stay bounded",
    "INL-21": "masking local tokens hurts",
    "MLA-3": "paper's (α|alpha) = 0.9",
    "MLA-4": "only a dynamic decay can overwrite|that the other rows are left alone",
    "MLA-9": "not negative, or one channel only",
    "MLA-10": "computed from the tokens seen so far, as the definition",
    "MLA-15": "keeps a row's sum within 1 as",
    "MLA-16": "diagonal of the map are the same, linear in the values",
    "MLA-22": "only one with queries and a decay",
    "MLA-27": "loses accuracy across the tasks",
    "ZER-7": "yield all zero-sum combinations|as a corollary of the paper says",
    "ZER-10": "one-to-one for all gates",
    "ZER-12": "ρ is not defined[;,.]",
    "ZER-15": "zeros has the same numerical stability as softmax|not as stable as softmax",
    "ZER-21": "the released code compute the same layer",
    "ZER-25": "released linear-time scan needs o",
    "ZER-26": "ahead of it on wikitext|ahead of softmax on imagenet",
}
ASCRIBED = re.compile(r"the (paper|authors?) (says?|states?|claims?|concludes?|asserts?)\b")
HISTORY = {"claims_before.json", "claims_changes.md", "test_not_said.py", "CHANGELOG.md"}


def texts():
    places = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    for folder in ("dsf", "notebooks", "experiments", "docs", "tests/claims"):
        places += (ROOT / folder).rglob("*.py")
    places += (ROOT / "experiments").rglob("*.md")
    for place in places:
        inside = place.relative_to(ROOT).parts
        if place.name in HISTORY or "_build" in inside or "_generated" in inside:
            continue
        yield place.relative_to(ROOT), place.read_text(encoding="utf-8")


def flat(text):
    """One line, lower case, without the marks of comments, strings and emphasis."""
    joined = re.sub(r'"\s*\n\s*f?"', "", text)
    return re.sub(r"\s+", " ", re.sub(r"\n\s*#", "\n", joined).replace("*", "")).lower()


def sentences(text):
    """Every paragraph, list entry, cell and claim taken apart."""
    for block in re.split(r"\n\s*\n|# %%|\n- |\bClaim\(", text):
        yield from re.split(r'(?<=[.!?])["”]?,? ', flat(block))


WRITTEN = dict(texts())
ALL_TEXTS = {place: flat(text) for place, text in WRITTEN.items()}
ASCRIBING = [
    (place, sentence)
    for place, text in WRITTEN.items()
    for sentence in sentences(text)
    if ASCRIBED.search(sentence)
]


@pytest.mark.parametrize("id", PHRASES)
def test_the_old_wording_is_gone(id):
    found = {str(place) for place, text in ALL_TEXTS.items() if re.search(PHRASES[id], text)}
    assert found == set()


@pytest.mark.parametrize("id", NOT_STATED)
def test_what_a_paper_does_not_state_is_not_in_its_table(id):
    assert BY_ID[id].table is not Table.PAPER


@pytest.mark.parametrize("id", NOT_STATED)
def test_no_sentence_ascribes_it(id):
    """Neither the statement itself nor its id next to words that give it to a paper."""
    statement = flat(BY_ID[id].statement).rstrip(".")
    named = re.compile(rf"\b{id.lower()}\b")
    found = [
        (str(place), sentence)
        for place, sentence in ASCRIBING
        if statement in sentence or named.search(sentence)
    ]
    assert found == []


def test_sentences_that_ascribe_are_found():
    assert len(ASCRIBING) > 10


def test_an_ascription_would_be_seen():
    assert ASCRIBED.search(flat("As the paper\n# states, ..."))
    assert re.search(PHRASES["INL-4"], flat('# "never injective, *whatever* its feature\n# map"'))
