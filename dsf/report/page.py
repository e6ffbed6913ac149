"""The page of a report: one self-contained HTML file that needs no network."""

import base64
import hashlib
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from dsf.properties.decided import VerdictCount, verdict_counts
from dsf.properties.names import IF_NOT
from dsf.report.content import embedded
from dsf.report.escaping import escaped
from dsf.report.subjects import Subject
from dsf.report.viewer import EXPLORER, file_of, script_of, style_of


def rendered(
    shown: list[Subject], data: Mapping[str, Any], *, title: str | None, facts: Mapping[str, str]
) -> str:
    """The HTML text of the page."""
    script, style = script_of(*EXPLORER, "page"), style_of("explorer", "page")
    names = " and ".join(subject.name for subject in shown)
    layers = [layer for subject in shown for layer in subject.inspection]
    return _template().render(
        title=escaped(title or names),
        facts=facts,
        subjects=shown,
        several=len(shown) > 1,
        verdict_counts=_verdict_counts(shown),
        unsupported=[missed for subject in shown for missed in subject.inspection.unsupported],
        plain=escaped,
        if_not=defaultdict(str, IF_NOT),
        layers=list(zip(layers, data["layers"], strict=True)),
        data=Markup(embedded(data)),  # noqa: S704  # escaped by ``embedded``
        script=Markup(script),  # noqa: S704  # ours
        style=Markup(style),  # noqa: S704  # ours
        script_hash=fingerprint(script),
        style_hash=fingerprint(style),
    )


def _verdict_counts(shown: list[Subject]) -> list[tuple[str, VerdictCount]]:
    """The counts of verdicts, each with the name of its model."""
    return [
        (subject.name, count)
        for subject in shown
        if subject.verdicts is not None
        for count in verdict_counts(subject.verdicts)
    ]


@cache
def _template():  # type: ignore[no-untyped-def]
    rules = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return rules.from_string(file_of("page.html.j2"))


def fingerprint(text: str) -> str:
    """The hash by which a content security policy names an inline element."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
