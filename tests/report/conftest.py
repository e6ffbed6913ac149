"""Inspections made of drawn mixers, and a reader of the page that shares nothing with it."""

import base64
import json
import re
import zlib
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

import dsf
from dsf.inspection import InspectedLayer, Inspection, Unsupported

HOSTILE = (
    "</script><img src=x onerror=alert(1)>",
    "<!--<script>",
    "</script/x",
    "\u202eevil\u2028",
    '=cmd|"/C calc"!A1',
    "{{ 7 * 7 }}",
    "$x^2$",
    "\ud800",
)


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
    return np.frombuffer(zlib.decompress(base64.b64decode(packed)), dtype).reshape(shape)


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


def of_mixers(mixers, *, words=None, unsupported=(), axes=None):
    layers = []
    for k, mixer in enumerate(mixers):
        batch = len(mixer.system().batch)
        names = axes or ("sample", "head", "channel")[:batch] if batch != 1 else ("head",)
        layers.append(
            InspectedLayer(
                name=f"model.layers.{k}.mixer",
                family=type(mixer).__name__.lower(),
                mixer=mixer,
                axes=axes or names,
                error=1e-9 * (k + 1),
                tolerance=1e-6,
            )
        )
    tokens = None if words is None else (tuple(words),)
    return Inspection(
        layers=tuple(layers),
        unsupported=tuple(Unsupported(*each) for each in unsupported),
        model="drawn/model",
        tokens=tokens,
        environment={"dsf": "0", "torch": "0"},
    )


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
