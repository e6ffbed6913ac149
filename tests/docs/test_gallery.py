"""The gallery and the syllabus: complete, typeset, and with sources that the library cites."""

import re
from importlib import import_module
from pathlib import Path

import pytest

import dsf

ROOT = Path(__file__).resolve().parents[2]
convert = pytest.importorskip("latex2mathml.converter", reason="needs the extra docs").convert
gallery = pytest.importorskip("docs.building.gallery", reason="needs the checkout")

from docs.building.formulas import formulas, latex  # noqa: E402
from docs.building.words import linked, paragraphs  # noqa: E402


def test_every_architecture_has_one_kind():
    listed = [name for names in gallery.KINDS.values() for name in names]
    assert sorted(listed) == sorted(kind.__name__ for kind in dsf.mixers.ALL)
    assert set(gallery.CALLED) <= set(listed)


@pytest.mark.parametrize(
    ("name", "year"), [("LSTM", 1997), ("S4", 2021), ("DeltaFormer", 2025), ("ElmanRNN", 1990)]
)
def test_years_are_those_of_the_sources(name, year):
    assert gallery.year_of(getattr(dsf.mixers, name)) == year


@pytest.mark.parametrize(
    ("text", "typeset"),
    [
        ("S_t = diag(g_t) S_{t-1}", r"S_{t} = \operatorname{diag}(g_{t}) S_{t-1}"),
        ("o_t = S_tᵀ q_t", r"o_{t} = S_{t}^{\top} q_{t}"),
        ("q_i.k_j / 1.5", r"q_{i}\cdot k_{j} / 1.5"),
        ("sqrt(1 - (a))", r"\sqrt{1 - (a)}"),
        ("rows sum to one", r"\text{ rows sum to one }"),
        ("(A)⁻¹ h̃", r"(A)^{-1} \tilde{h}"),
    ],
)
def test_formulas_by_hand(text, typeset):
    assert latex(text) == typeset


def test_every_formula_is_typeset(mixer_class):
    blocks = [
        part
        for part in paragraphs(import_module(mixer_class.__module__))
        if part.startswith("    ")
    ]
    found = [formula for block in blocks for formula in formulas(block)]
    assert found
    for formula in found:
        drawn = convert(formula)
        assert "<math" in drawn
        assert "\\" not in drawn, formula
        assert not re.search("[ᵀᴴ²⁻]", drawn), formula


def sources(*places):
    files = [path for place in places for path in (ROOT / place).rglob("*.py")]
    return "\n".join(path.read_text("utf-8") for path in files)


def test_the_syllabus_names_papers_that_are_cited_here():
    text = (ROOT / "docs/syllabus.md").read_text("utf-8")
    named = set(re.findall(r"arXiv:(\d{4}\.\d{5})", text))
    assert len(named) > 20
    cited = set(re.findall(r"(\d{4}\.\d{5})", sources("dsf", "notebooks")))
    assert named - cited == set()
    # Every reading has a title, and a title has its reading once.
    titles = re.findall(r"\*([A-Z][^*]{12,})\*", text)
    assert len(titles) == len(set(titles)) >= len(named)


def test_every_notebook_has_its_week():
    rows = re.findall(
        r"^\| \d+ \| [^|]+ \| ([\d, ]+) \|", (ROOT / "docs/syllabus.md").read_text("utf-8"), re.M
    )
    assert len(rows) == 12
    planned = [int(number) for row in rows for number in row.split(",")]
    assert planned == [int(path.name[:2]) for path in sorted(ROOT.glob("notebooks/[01]*.py"))]


def test_letters_with_an_index_are_typeset_in_sentences():
    assert linked("With ‖k_t‖ = 1 and 0 ≤ β_t no A_{t-1} expands.") == (
        "With ‖$k_{t}$‖ = 1 and 0 ≤ $\\beta _{t}$ no $A_{t-1}$ expands."
    )
    assert linked("A_t P_{t-1} A_tᴴ") == "$A_{t}$ $P_{t-1}$ $A_{t}^{H}$"
    assert linked(r"norms of :math:`A_j \cdots A_1` at t") == r"norms of $A_j \cdots A_1$ at t"
    kept = "``low_rank_left=-P``, `a_t`, rotation_s, h0_t, doi:10.1207/s15516709cog1402_1"
    assert linked(kept) == kept


def test_the_page_of_systems_has_a_row_and_a_picture_for_every_structure():
    concepts = import_module("docs.building.concepts")

    def structure(kind):
        return type(gallery.drawn(kind).system().A)

    shown = {name: structure(kind) for name, kind in concepts.STRUCTURES.items()}
    sampled = {
        dsf.systems.transition.SampledDiagonal: dsf.systems.transition.Diagonal
    }  # the same matrices
    used = {structure(kind) for kind in dsf.mixers.ALL}
    assert {sampled.get(each, each) for each in used} == set(shown.values())
    page = (ROOT / "docs" / "concepts" / "systems.md").read_text("utf-8")
    assert re.findall(r"^\| ([^|]+) \|.*\|$", page, re.MULTILINE)[1:] == list(shown)
