"""``Ledger``: the change of a number between two runs, shared among layers and stages."""

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import torch

from dsf.inspection.choice import Chosen, chosen_heads, chosen_layers, each_chosen
from dsf.inspection.errors import InspectionError
from dsf.inspection.results.saving import save
from dsf.inspection.results.table import Table, aligned
from dsf.runtime.files import replace_file

NUMBERED = re.compile(r"(?:[^.]+\.)*?(\d+)(?![^.])")
"""The path of a block: up to its first part that is a number."""


@dataclass(frozen=True)
class LedgerRow:
    """One stage of one layer.

    Attributes:
        layer: the path of a module.
        stage: what happens there: ``projection``, ``convolution``, ``gates``, ``state``,
            ``read-out``, ``rotary``, ``norm``, ``output``, ``addition`` to the residual stream,
            ``feed-forward``, ``embedding``, ``head``.
        own: what it added by itself, relative to its result; the largest of its operations.
        expected: what number type and length, or a healthy run in the same type, explain of it.
        share: its part of the change of the number.
        cumulative: the sum of the shares up to here, in the order in which the stages ran.
        first: the first token whose own exceeds what is expected; None without one.
        accused: whether ``own`` exceeds what is expected.
        tokens: the share by the token at which it was added; one number where none is known.
        heads: the heads that carry the share, the strongest first; none outside of mixers and
            where heads are not apart.
        by_head: the share of every head.
    """

    layer: str
    stage: str
    own: float
    expected: float
    share: float
    cumulative: float
    first: int | None
    accused: bool
    tokens: tuple[float, ...] = field(repr=False, default=())
    heads: tuple[int, ...] = ()
    by_head: tuple[float, ...] = field(repr=False, default=())


@dataclass(frozen=True, repr=False)
class Ledger:
    """The change of one number between two runs of a model, shared among layers and stages.

    Attributes:
        rows: accused stages first, then all others, each by their share.
        total: the sum of all shares.
        actual: the number in the run under suspicion, minus that of the reference.
        reference, suspect: the number in each of the two.
        points: how many points of the way between both runs were averaged.
        passes: how many runs of the model were made; a backward pass, which has no gradients of
            weights, counts as one.
        about: what was compared.
    """

    rows: tuple[LedgerRow, ...]
    total: float
    actual: float
    reference: float
    suspect: float
    points: int
    passes: int
    about: str

    @property
    def residual(self) -> float:
        """What the shares do not explain of the change."""
        return self.actual - self.total

    @property
    def accused(self) -> tuple[LedgerRow, ...]:
        """The stages that did more than is expected of them."""
        return tuple(row for row in self.rows if row.accused)

    def of_layers(self, layers: Chosen) -> "Ledger":
        """Return the ledger with the rows of all other layers as one, so that the sum is the same.

        Args:
            layers: names of modules that hold the stages, patterns, or numbers of blocks.

        Raises:
            InspectionError: if there is no such layer.
        """
        names = list(dict.fromkeys(row.layer for row in self.rows))
        numbered = {m[0]: int(m[1]) for name in names if (m := NUMBERED.match(name))}
        blocks, chosen = sorted(numbered, key=numbered.__getitem__), set[str]()
        for each in each_chosen(layers):
            paths = chosen_layers(names if isinstance(each, str) else blocks, each)
            inside = tuple(f"{path}." for path in paths)
            chosen |= {name for name in names if f"{name}.".startswith(inside)}
        kept = [row for row in self.rows if row.layer in chosen]
        rest = [row for row in self.rows if row.layer not in chosen]
        if rest:
            kept.append(_as_one(rest, "other layers", math.fsum(row.share for row in rest)))
        return replace(self, rows=tuple(sorted(kept, key=by_weight)))

    def of_heads(self, heads: Chosen) -> "Ledger":
        """Return the ledger with what all other heads add as one row, so that the sum is the same.

        Stages without heads stay as they are.

        Args:
            heads: numbers or slices, of every mixer that has them.

        Raises:
            InspectionError: if no mixer has such a head.
        """
        rows, left_out, others = [], [], []
        missing = InspectionError(f"heads: expected stages with heads for {heads!r}, got none.")
        for row in self.rows:
            if not row.by_head:
                rows.append(row)
                continue
            try:
                chosen = chosen_heads(row.layer, len(row.by_head), heads) or ()
            except InspectionError as error:
                missing, chosen = error, ()
            share = math.fsum(row.by_head[head] for head in chosen)
            others.append(row.share - share)
            if not chosen:
                left_out.append(row)
                continue
            strongest = tuple(head for head in row.heads if head in chosen)
            rows.append(replace(row, share=share, heads=strongest, tokens=()))
        if self.rows and not any(row.by_head for row in rows):
            raise missing
        if others:
            nothing = LedgerRow("", "", 0.0, 0.0, 0.0, self.total, None, False)
            rows.append(_as_one(left_out or [nothing], "other heads", math.fsum(others)))
        return replace(self, rows=tuple(sorted(rows, key=by_weight)))

    @property
    def is_healthy(self) -> bool:
        """Whether no stage is accused."""
        return not self.accused

    @property
    def sentence(self) -> str:
        """The stage that explains most of what is not expected, or that there is none."""
        if not self.rows:
            return "the two runs are the same in every number"
        if self.is_healthy:
            most = self.rows[0]
            return (
                "no layer is accused: number type and length explain the change of the logit "
                f"({self.actual:.3g}); the largest share, {most.share:.3g}, is of "
                f"{_in_words(most.layer)}, {most.stage}"
            )
        row = self.accused[0]
        part = f"{row.share:.3g} of {self.actual:.3g}"
        percent = f"{100 * row.share / self.actual:.0f} % of " if self.actual else ""
        since = "" if row.first is None else f", from token {row.first} on"
        return (
            f"{_in_words(row.layer)}, {row.stage}: explains {percent}the change of the logit "
            f"({part}){since}"
        )

    def __str__(self) -> str:
        lines = [self.sentence, "", self.about]
        head = ("layer", "stage", "own", "expected", "share", "cumulative", "first")
        cells = [
            (
                row.layer,
                row.stage + (" !" if row.accused else ""),
                f"{row.own:.1e}",
                f"{row.expected:.1e}",
                f"{row.share:+.3g}",
                f"{row.cumulative:+.3g}",
                "" if row.first is None else str(row.first),
            )
            for row in self.rows[:MAX_SHOWN]
        ]
        lines += aligned((head, *cells))
        if len(self.rows) > MAX_SHOWN:
            lines.append(f"and {len(self.rows) - MAX_SHOWN} more stages")
        lines.append(
            f"sum of the shares {self.total:+.4g}, change {self.actual:+.4g}, residual "
            f"{self.residual:+.1e} ({self.points} points)"
        )
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Ledger({self.sentence})"

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain data."""
        plain = json.loads(json.dumps(asdict(self)))  # with lists in place of tuples
        facts = {"healthy": self.is_healthy, "residual": self.residual}
        return {"sentence": self.sentence, **plain, **facts}

    def to_pandas(self) -> Any:
        """Return the rows as a data frame, without the shares by token and head."""
        records = [asdict(row) for row in self.rows]
        for record in records:
            del record["tokens"], record["by_head"]
        return Table(tuple(records)).to_pandas()

    def to_junit(self) -> str:
        """Return the stages as test cases of JUnit's XML: an accused one has failed."""
        cases = []
        for row in self.rows:
            name = f"<testcase classname={quoteattr(row.layer)} name={quoteattr(row.stage)}"
            if row.accused:
                why = f"own {row.own:.1e}, expected {row.expected:.1e}; share {row.share:+.3g}"
                cases.append(f"{name}><failure message={quoteattr(why)}/></testcase>")
            else:
                cases.append(f"{name}/>")
        body = "\n".join(cases)
        return (
            f'<testsuite name="dsf audit" tests="{len(self.rows)}" '
            f'failures="{len(self.accused)}">\n{body}\n</testsuite>\n'
        )

    def save(self, path: str | Path) -> Path:
        """Write the ledger, by the ending: ``.json``, ``.xml`` (JUnit), ``.txt``, or a figure.

        Without an ending it is written into a folder, from which ``dsf.load`` reads it.
        """
        path = Path(path)
        if not path.suffix or path.is_dir():
            return save(self, path)
        if path.suffix in (".png", ".svg", ".pdf"):
            return replace_file(path, self.figure().savefig)
        texts: dict[str, Callable[[], str]] = {
            ".json": lambda: json.dumps(self.to_json(), indent=1),
            ".xml": self.to_junit,
            ".txt": lambda: f"{self}\n",
        }
        if path.suffix not in texts:
            raise ValueError(
                f"Ledger.save: 'path' expected an ending of {', '.join(texts)}, .png, .svg or "
                f".pdf, got {path.name!r}."
            )
        text = texts[path.suffix]()
        return replace_file(path, lambda draft: draft.write_text(text, encoding="utf-8"))

    def figure(self) -> Any:
        """Return a figure of matplotlib: shares over depth, and over tokens."""
        from matplotlib.figure import Figure

        picture = Figure(figsize=(9, 6), layout="constrained")
        depth, tokens = picture.subplots(2, 1)
        strongest = sorted(self.rows, key=lambda row: -abs(row.share))[:MAX_DRAWN]
        names = [f"{_in_words(row.layer)}, {row.stage}" for row in strongest]
        depth.barh(names[::-1], [row.share for row in strongest[::-1]])
        depth.set_xlabel("share of the change")
        for row, name in zip(strongest[:MAX_LINES], names, strict=False):
            if len(row.tokens) > 1:
                tokens.plot(torch.tensor(row.tokens).cumsum(0).tolist(), label=name)
        tokens.set_xlabel("token")
        tokens.set_ylabel("share, cumulative")
        if tokens.lines:
            tokens.legend(fontsize="small")
        return picture


MAX_SHOWN, MAX_DRAWN, MAX_LINES = 20, 16, 5
"""Numbers of rows in a text, bars in a figure, and lines in a figure."""


def by_weight(row: LedgerRow) -> tuple[bool, float]:
    """Return what rows are sorted by: accused ones first, then by their shares."""
    return not row.accused, -abs(row.share)


def _as_one(rows: Sequence[LedgerRow], name: str, share: float) -> LedgerRow:
    """One row in place of several: the worst of them, so that an accusation is not lost."""
    worst = max(rows, key=lambda row: (row.accused, row.own))
    worst = replace(worst, layer=name, stage="all", share=share)
    return replace(worst, tokens=(), heads=(), by_head=())


def _in_words(layer: str) -> str:
    """``layer 7 linear_attn`` for ``model.layers.7.linear_attn``."""
    parts = layer.split(".")
    numbers = [at for at, part in enumerate(parts) if part.isdecimal()]
    if not numbers:
        return layer or "the model"
    at = numbers[0]
    return " ".join(("layer", parts[at], ".".join(parts[at + 1 :]))).strip()
