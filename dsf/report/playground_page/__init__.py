"""``playground``: one page with sliders for A, B, C and D, from softmax to the delta rule.

The page computes everything itself, offline. ``presets.json`` names the architectures, their
sliders and limits.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from dsf.report.page import filled
from dsf.report.viewer import code_of, file_of, script_of, style_of
from dsf.runtime.files import replace_file

SHARED = ("codes", "text", "colours", "canvas", "tables")
"""Scripts of the report's viewer: numbers as text, tables, and the colour scale."""
SCRIPTS = ("systems", "pictures", "board")
FOLDER = "playground_page"
HEIGHT = 900
"""Pixels of the frame in a notebook."""


@dataclass(frozen=True)
class Playground:
    """The page of ``dsf.report.playground``; a notebook shows it in a frame.

    Attributes:
        preset: the architecture that it opens with.
        settings: sliders that differ from the preset.
    """

    preset: str
    settings: Mapping[str, float | int] = field(default_factory=dict)

    @property
    def html(self) -> str:
        """The page as one self-contained text, which needs no network."""
        start = {"preset": self.preset, "settings": dict(self.settings)}
        data = {**_content(), "start": start}
        script = script_of(f"{code_of(*SHARED)}\n{code_of(*SCRIPTS, folder=FOLDER)}")
        style = f"{style_of('explorer', 'page')}\n{file_of('playground.css', FOLDER)}"
        return filled(file_of("page.html.j2", FOLDER), script, style, data)

    def write(self, path: str | Path) -> Path:
        """Write the page to a file, which is replaced only once all is written."""
        return replace_file(path, lambda draft: draft.write_text(self.html, encoding="utf-8"))

    def _repr_html_(self) -> str:
        """The page in a frame of its own, which can reach nothing of the notebook."""
        return (
            f'<iframe title="Playground: {escape(self.preset)}" sandbox="allow-scripts '
            f'allow-downloads" srcdoc="{escape(self.html)}" width="100%" height="{HEIGHT}" '
            'style="border: 0"></iframe>'
        )


def playground(preset: str = "softmax_attention", **settings: float | int) -> Playground:
    """A page with sliders, to see map, state and response of an architecture change.

    Its numbers are those of the library's mixers in float64, on twelve tokens.

    Args:
        preset: the architecture that it opens with: ``system`` (A, B, C, D by hand),
            ``softmax_attention``, ``linear_attention``, ``taylor``, ``in_line_attention``,
            ``zero_sum_attention``, ``retention``, ``gated_linear_attention``,
            ``diagonal_state_space``, ``lru``, ``selective_state_space``, ``delta_net`` or
            ``gated_delta_net``.
        settings: positions of its sliders, such as ``rate=0.5`` or ``order=4``.

    Raises:
        ValueError: if there is no such preset or slider, or a slider does not reach so far.

    Example:
        >>> import dsf
        >>> dsf.report.playground("delta_net", rate=0.5)
        Playground(preset='delta_net', settings={'rate': 0.5})
    """
    presets = {each["name"]: each["sliders"] for each in _content()["presets"]}
    if preset not in presets:
        raise ValueError(f"playground: there is no preset '{preset}'. Take {_listed(presets)}.")
    sliders = {name: (low, high, step) for name, _, low, high, step, _ in presets[preset]}
    start: dict[str, float | int] = {}
    for name, value in settings.items():
        if name not in sliders:
            raise ValueError(
                f"playground: '{preset}' has no slider '{name}'. It has {_listed(sliders)}."
            )
        given: Any = value  # of Python, NumPy or torch
        number: Any = given.item() if getattr(given, "ndim", None) == 0 else given
        low, high, step = sliders[name]
        slider, but = f"playground: the slider '{name}' of '{preset}'", f"but {name} is {value!r}."
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise ValueError(f"{slider} takes a number, {but}")
        if not low <= number <= high:
            raise ValueError(f"{slider} goes from {low:g} to {high:g}, {but}")
        if step == 1 and number != int(number):
            raise ValueError(f"{slider} moves in steps of 1, {but}")
        start[name] = number
    return Playground(preset, start)


def _listed(names: Mapping[str, Any]) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}"


@cache
def _content() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file_of("presets.json", FOLDER))
    return content
