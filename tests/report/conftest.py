"""Inspections made of drawn mixers, and a reader of the page that shares nothing with it."""

import base64
import json
import re
import shutil
import zlib
from functools import partial
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

import dsf
from dsf.inspection.results.table import Table
from dsf.report import show
from tests.report.drawn import HOSTILE, of_mixers

# What fits itself to the window does so when the first frames are drawn.
SETTLED = "new Promise((next) => requestAnimationFrame(() => requestAnimationFrame(next)))"
READBACK = "Multiple readback operations"  # what a test that counts pixels is told


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the text inside scripts and styles."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.elements, self.inside, self._open = [], [], None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._open = (tag, dict(attrs), [])

    def handle_data(self, data):
        if self._open:
            self._open[2].append(data)

    def handle_endtag(self, tag):
        if self._open and tag == self._open[0]:
            self.inside.append((tag, self._open[1], "".join(self._open[2])))
            self._open = None


def read_content(page):
    """The JSON of a page."""
    found = [text for tag, attrs, text in Elements(page).inside if attrs.get("id") == "content"]
    (text,) = found
    return json.loads(text, parse_constant=pytest.fail)


def unpack(packed, dtype, shape):
    deflated = base64.b64decode(packed) if isinstance(packed, str) else packed
    return np.frombuffer(zlib.decompress(deflated), dtype).reshape(shape)


def weights_of(picture, scale):
    """The weights that the codes of a picture stand for; nan where there is none."""
    codes = unpack(picture["codes"], np.uint8, (picture["rows"], picture["columns"])).astype(int)
    level = (codes - 129) / 125
    return np.where(codes < 4, np.nan, level * abs(level) * scale), codes


@pytest.fixture
def reading():
    """How to read a page: its content, its elements, its numbers."""

    class Reading:
        content = staticmethod(read_content)
        elements = staticmethod(Elements)
        unpacked = staticmethod(unpack)
        weights = staticmethod(weights_of)
        hostile = HOSTILE
        policy = re.compile(r"([\w-]+) ([^;]+)")

    return Reading


@pytest.fixture
def inspected():
    """Builds an inspection of drawn mixers of some classes."""

    def build(*classes, steps=9, words=None, unsupported=()):
        rng = torch.Generator().manual_seed(0)
        mixers = [cls.draw(rng, steps=steps) for cls in classes]
        return of_mixers(mixers, words=words, unsupported=unsupported)

    return build


@pytest.fixture
def of():
    """Builds an inspection of given mixers."""
    return of_mixers


@pytest.fixture
def softmax():
    """One softmax head with hand-made scores: row i of the map is softmax(scores[i])."""

    def build(scores, **options):
        scores = torch.as_tensor(scores, dtype=torch.float64)
        steps = scores.shape[-1]
        return dsf.mixers.SoftmaxAttention(
            query=torch.zeros(1, scores.shape[-2], 1, dtype=torch.float64),
            key=torch.zeros(1, steps, 1, dtype=torch.float64),
            value=torch.ones(1, steps, 2, dtype=torch.float64),
            bias=scores[None],
            **options,
        )

    return build


@pytest.fixture(scope="module")
def browser():
    """Chromium as the system has it; nothing is downloaded."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the playwright package")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("needs Chromium on the PATH")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium)
        yield browser
        browser.close()


@pytest.fixture
def visited(browser):
    """Opens a page; afterwards nothing may have been asked for or said."""
    said, asked, pages = [], [], []

    def visit(path, **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))  # warnings too
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append("dialog") or dialog.dismiss())
        page.on("request", lambda request: asked.append((request.url, path.as_uri())))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]")
        page.evaluate(SETTLED)
        pages.append(page)
        return page

    yield visit
    for page in pages:
        page.context.close()
    assert [text for text in said if READBACK not in text] == []
    assert all(url == own for url, own in asked)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A page with hostile tokens and verdicts."""
    words = [*HOSTILE, "k01"]
    rng = torch.Generator().manual_seed(0)
    kinds = (dsf.mixers.SoftmaxAttention, dsf.mixers.DeltaNet, dsf.mixers.SelectiveStateSpace)
    inspection = of_mixers([kind.draw(rng, steps=9) for kind in kinds], words=words)
    told = {"level": "data", "observed": -0.5, "claim": words[0], "limits": words[1]}
    verdicts = [
        {"layer": layer.name, "property": words[0], "verdict": verdict, **told}
        for layer in inspection
        for verdict in ("PROVED", "REFUTED", "UNKNOWN")
    ]
    path = tmp_path_factory.mktemp("page") / "r.html"
    return show(
        inspection,
        path,
        title=words[0],
        facts={words[0]: words[0]},
        verdicts=Table(tuple(verdicts)),
    )


@pytest.fixture
def opened(visited, hostile):
    """The hostile page, open."""
    return partial(visited, hostile)
