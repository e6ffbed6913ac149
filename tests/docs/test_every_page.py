"""Every built page, read as text: links lead somewhere, pictures have words, nothing is fetched."""

import re
from functools import cache
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest

import dsf
import papers

pytestmark = [pytest.mark.slow, pytest.mark.pipeline]
FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src"}


class Page(HTMLParser):
    """What can be linked to, what is linked to, what is fetched, and pictures without words."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.ids, self.links, self.fetched, self.wordless = set(), [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids.add(given.get("id"))
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in FETCHED and given.get(FETCHED[tag]):
            self.fetched.append(given[FETCHED[tag]])
        if tag == "link" and "stylesheet" in (given.get("rel") or ""):
            self.fetched.append(given["href"])
        if tag == "img" and not (given.get("alt") or "").strip():
            self.wordless.append(given.get("src"))


@pytest.fixture(scope="module")
def read():
    return cache(lambda path: Page(path.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def pages(site):
    found = sorted(site.rglob("*.html"))
    assert len(found) > 100
    return found


def broken(pages, read):
    """Links and fetched files that are not there, or not in the site."""
    for page in pages:
        for target in [*read(page).links, *read(page).fetched]:
            parts = urlsplit(target)
            if parts.scheme in ("http", "https", "mailto", "data"):
                continue
            place = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if not place.is_file() or not _within(place, parts.fragment, read):
                yield page.name, target


def _within(place, fragment, read):
    return not fragment or place.suffix != ".html" or unquote(fragment) in read(place).ids


def test_every_link_leads_somewhere(pages, read):
    assert list(broken(pages, read)) == []


def test_a_broken_link_is_seen(tmp_path, read):
    page = tmp_path / "page.html"
    page.write_text(
        '<p id="here"><a href="#here">1</a><a href="#there">2</a><a href="no.html">3</a>'
    )
    assert [target for _, target in broken([page], read)] == ["#there", "no.html"]


def test_every_picture_has_words(pages, read):
    assert {page.name: read(page).wordless for page in pages if read(page).wordless} == {}


def without_words(text):
    """Headings of columns with no words: empty ones, and formulas, which some readers leave out."""
    for heading in re.findall(r"<th\b[^>]*>.*?</th>", text, re.DOTALL):
        words = re.sub(r"<math.*?</math>|<[^>]*>", "", heading, flags=re.DOTALL)
        if not words.strip():
            yield heading


def test_the_heading_of_a_column_has_words(pages):
    found = {page.name: list(without_words(page.read_text("utf-8"))) for page in pages}
    assert {name: headings for name, headings in found.items() if headings} == {}


def test_a_heading_without_words_is_seen():
    formula, empty = "<th><p><math><mi>k</mi></math></p></th>", '<th class="head"><p></p></th>'
    word = "<th><p>key <math></math></p></th>"
    assert list(without_words(formula + word + empty)) == [formula, empty]


def test_nothing_is_fetched_from_elsewhere(pages, read):
    outside = [url for page in pages for url in read(page).fetched if "//" in url]
    assert outside == []


def test_no_page_shows_an_address_in_memory(pages):
    """A default without a name of its own is shown as one, and differs from build to build."""
    address = re.compile(r"0x[0-9a-f]{9,}")
    assert [page.name for page in pages if address.search(page.read_text(encoding="utf-8"))] == []


def test_every_formula_is_typeset(pages):
    """No command of LaTeX stands in a page as text."""
    hidden = re.compile(r"<(pre|code|math|script|style)\b.*?</\1>|<[^>]*>", re.DOTALL)
    left = re.compile(r"\$[^$<>]*\\[a-z]+[^$<>]*\$|\\(?:cdots|frac|sum|top|le)\b")
    found = {page.name: left.findall(hidden.sub("", page.read_text("utf-8"))) for page in pages}
    assert {name: each for name, each in found.items() if each} == {}


def test_options_of_the_command_keep_their_hyphens(pages):
    """A dash in front of a word is an option that was taken for typography."""
    dash = re.compile(r"(?<![\w\d.)>”’ ])–[a-z]{2}|(?<=[ ‘(])–[a-z]{2}")
    found = {page.name: dash.findall(page.read_text("utf-8")) for page in pages}
    assert {name: each for name, each in found.items() if each} == {}


def test_every_architecture_measure_and_claim_has_its_place(site):
    gallery = site / "_generated" / "gallery"
    for kind in dsf.mixers.ALL:
        text = (gallery / f"{kind.__module__.rpartition('.')[2]}.html").read_text("utf-8")
        assert f"<h1>{kind.__name__}" in text
    measures = (site / "_generated" / "measures.html").read_text("utf-8")
    without = [name for name in dsf.measures.__all__ if f"dsf.measures.{name}" not in measures]
    assert without == ["Streamed"]
    page = (site / "papers.html").read_text("utf-8")
    assert [each.id for each in papers.ALL if f'id="{each.id}"' not in page] == []
