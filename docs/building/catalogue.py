"""The catalogue of measures: one row for each, under the question that its file answers."""

import inspect
from collections.abc import Iterator
from importlib import import_module
from itertools import groupby

from docs.building.words import cell, linked
from dsf import measures
from dsf.report.plot import QUANTITIES

HEAD = """# Measures

A measure is a function from a [map](../glossary.md#map) or a [system](../glossary.md#system) to
numbers. Given a system it computes the map a few rows at a time, so that it also works at lengths
at which the whole map does not fit into memory. {py:mod}`dsf.measures` has definitions, ranges,
edge cases and sources; `dsf.report.plot.draw(measure, numbers)` plots the result of any measure,
with its unit.

"""


def pages() -> Iterator[tuple[str, str]]:
    """The one page."""
    yield "measures.md", HEAD + "\n".join(_groups())


def _groups() -> Iterator[str]:
    found = [getattr(measures, name) for name in measures.__all__]
    functions = sorted(filter(inspect.isfunction, found), key=lambda each: each.__module__)
    for module, group in groupby(functions, key=lambda each: each.__module__):
        question = (inspect.getdoc(import_module(module)) or "").split("\n\n")[0]
        yield f"## {linked(' '.join(question.split())).rstrip('.')}\n"
        yield "| measure | definition | unit | argument |\n|---|---|---|---|"
        yield from (_row(each) for each in group)
        yield ""


def _row(measure: object) -> str:
    name = measure.__name__
    sentence = linked(cell((inspect.getdoc(measure) or "").split("\n\n")[0]).replace("``", "`"))
    quantity = QUANTITIES.get(measure)
    given = next(iter(inspect.signature(measure).parameters)).replace("_", " ")
    unit = quantity.unit if quantity else ""
    return f"| {{py:func}}`~dsf.measures.{name}` | {sentence} | {unit} | {given} |"
