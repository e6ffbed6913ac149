"""The gallery: every architecture with its equation, its system, its map and its spectrum."""

import inspect
import re
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from importlib import import_module

import torch

import dsf
from docs.building.pictures import overview, tile
from docs.building.words import cell, markdown, paragraphs
from dsf.mixers.base import Mixer, axes_of
from dsf.mixers.ingredients.recurrences import Activation
from dsf.systems import transition
from dsf.systems.coefficient import dense_of

STEPS = 24
FORMS = {
    transition.Dense: "dense",
    transition.Diagonal: "diagonal",
    transition.DiagonalPlusLowRank: "diagonal plus low rank",
    transition.Kronecker: "a small matrix, alike for every coordinate",
    transition.SampledDiagonal: "diagonal, exp(step · pole)",
    transition.ScaledIdentity: "a number times the identity",
    transition.Shift: "shift register",
}
KINDS = {
    "Softmax attention": (
        "SoftmaxAttention",
        "ForgettingAttention",
        "PathAttention",
        "StickBreakingAttention",
        "DeltaFormer",
    ),
    "Linear attention": (
        "LinearAttention",
        "NormalisedAttention",
        "InLineAttention",
        "ZeroSumAttention",
        "ZeroSumSoftmaxAttention",
        "MetaLinearAttention",
    ),
    "Decays and slots": (
        "Retention",
        "ScalarGatedAttention",
        "LogLinearAttention",
        "GatedLinearAttention",
        "HGRN",
        "HGRN2",
        "GatedSlotAttention",
        "BoundedMemoryAttention",
        "MesaNet",
        "MLSTM",
        "RWKV4",
        "RWKV6",
    ),
    "Delta rules": (
        "RWKV7",
        "DeltaNet",
        "GatedDeltaNet",
        "Comba",
        "KimiDeltaAttention",
        "GatedDeltaNet2",
        "PreconditionedDeltaNet",
        "MomentumDeltaNet",
        "GatedDeltaProduct",
    ),
    "State spaces": (
        "S4",
        "DiagonalStateSpace",
        "S5",
        "LRU",
        "SelectiveStateSpace",
        "StateSpaceDuality",
        "Mamba3",
        "ShortConvolution",
    ),
    "Recurrent networks": ("RGLRU", "QuasiLSTM", "MinGRU", "MinLSTM", "LSTM", "GRU", "ElmanRNN"),
}
"""By what their state does; a test keeps it complete."""
CALLED = {
    "SoftmaxAttention": "transformer, GPT, Llama, BERT, self-attention",
    "Retention": "RetNet",
    "GatedLinearAttention": "GLA",
    "ScalarGatedAttention": "simple GLA, lightning attention",
    "LinearAttention": "linear transformer, Performer, Based, ReBased",
    "ForgettingAttention": "forgetting transformer, FoX",
    "GatedSlotAttention": "GSA",
    "BoundedMemoryAttention": "ABC",
    "MLSTM": "xLSTM",
    "MetaLinearAttention": "MetaLA",
    "InLineAttention": "InLine",
    "ZeroSumAttention": "ZeroS",
    "KimiDeltaAttention": "Kimi Linear, KDA",
    "GatedDeltaNet": "Qwen3-Next, gated delta rule",
    "DeltaNet": "delta rule, fast weights",
    "SelectiveStateSpace": "Mamba, Mamba-1, S6, selective scan, SSM",
    "StateSpaceDuality": "Mamba-2, Mamba2, SSD",
    "DiagonalStateSpace": "S4D",
    "LRU": "linear recurrent unit",
    "RGLRU": "Griffin, RecurrentGemma, Hawk",
    "RWKV4": "RWKV-4",
    "RWKV6": "RWKV-6, Finch",
    "RWKV7": "RWKV-7, Goose",
    "ShortConvolution": "LFM2, causal convolution",
    "ElmanRNN": "vanilla RNN",
}
"""Words by which people look for an architecture."""
INDEX = """# Gallery of architectures

Every architecture of `dsf.mixers.ALL`, with its equation, its system, its attention map, and how
many states the map needs. All pages and pictures are made by the library from one random instance
of {steps} tokens: they show what an architecture *can* do, not what training makes of it.

In a map, rows are [queries and columns are keys](../../glossary.md#query-and-key); blue weights are
negative, white ones are zero, orange ones are positive. In the [playground](../../playground.md)
thirteen of them have sliders.

{groups}

## Timeline

By the year of the publication that a page names as its source.

{timeline}

```{{toctree}}
:hidden:

{names}
```
"""
GROUP = """## {kind}

:::{{container}} tiles

{tiles}

:::
"""
TILE = "[![Map of {name}]({page}-tile.png) {name}]({page}.md) {year}"
PAGE = """# {name}

```{{index}} {entries}
```

{words}

![Attention map of {name} and its Hankel singular values]({page}.png)

*Left:* the map of one head or channel of a random instance. *Right:* singular values of the [Hankel
block](../../glossary.md#hankel-block) through which the first half of the tokens acts on the
second. The number of those that are not zero is the number of states that any system needs in
between, whatever its coordinates.

## As a system

| part | form | size here | along the sequence |
|---|---|---|---|
{letters}

{facts}

## Coefficients

{{py:class}}`dsf.mixers.{name}` has these fields:

| field | axes | default |
|---|---|---|
{fields}

```python
import dsf, torch

mixer = dsf.mixers.{name}.draw(torch.Generator().manual_seed(0), steps={steps})
map = dsf.attention_map(mixer.system())
```
"""


def pages() -> Iterator[tuple[str, str | bytes]]:
    """The index, one page and two pictures for every mixer."""
    names = {kind: kind.__module__.rpartition(".")[2] for kind in dsf.mixers.ALL}
    index = INDEX.format(
        steps=STEPS,
        groups="\n".join(_group(kind, names) for kind in KINDS),
        timeline="\n".join(_timeline(names)),
        names="\n".join(names.values()),
    )
    yield "gallery/index.md", index
    for kind, page in names.items():
        mixer = drawn(kind)
        yield f"gallery/{page}.md", page_of(mixer, page)
        yield f"gallery/{page}.png", overview(mixer.system())
        yield f"gallery/{page}-tile.png", tile(mixer.system())


def year_of(kind: type[Mixer]) -> int:
    """The year of the publication that the module of a mixer names first as its source.

    That of the preprint where no other is named.

    Raises:
        ValueError: if it names none.
    """
    words = import_module(kind.__module__).__doc__ or ""
    found = re.search(r"Source: .*?\b((?:19|20)\d\d)\b(?!\.)", words, re.DOTALL)
    preprint = re.search(r"Source: .*?arXiv:(\d\d)", words, re.DOTALL)
    if found is None and preprint is None:
        raise ValueError(f"year_of: {kind.__module__} has no 'Source:' with a year.")
    return int(found[1]) if found else 2000 + int(preprint[1])


def _group(group: str, names: dict[type[Mixer], str]) -> str:
    """The tiles of one kind, by year."""
    found = sorted((kind for kind in names if kind.__name__ in KINDS[group]), key=year_of)
    tiles = (
        TILE.format(page=names[kind], name=kind.__name__, year=year_of(kind)) for kind in found
    )
    return GROUP.format(kind=group, tiles="\n\n".join(tiles))


def _timeline(names: dict[type[Mixer], str]) -> Iterator[str]:
    """A row for every year, a column for every kind."""
    yield f"| year | {' | '.join(KINDS)} |"
    yield f"|---|{'---|' * len(KINDS)}"
    for year in sorted({year_of(kind) for kind in names}):
        cells = (
            ", ".join(
                f"[{kind.__name__}]({page}.md)"
                for kind, page in names.items()
                if kind.__name__ in listed and year_of(kind) == year
            )
            for listed in KINDS.values()
        )
        yield f"| {year} | {' | '.join(cells)} |"


def _entries(name: str) -> str:
    """What the index, and so the search, finds a page by."""
    words = [name, *filter(None, CALLED.get(name, "").split(", "))]
    found = [*words[1:], *(f"attention map of {word}" for word in words)]
    return ", ".join(f"!{each}" for each in found)  # main entries are found first


def drawn(kind: type[Mixer]) -> Mixer:
    """The instance that the pages show."""
    return kind.draw(torch.Generator().manual_seed(0), steps=STEPS)


def page_of(mixer: Mixer, page: str) -> str:
    """One architecture as Markdown."""
    kind = type(mixer)
    return PAGE.format(
        name=kind.__name__,
        entries=_entries(kind.__name__),
        page=page,
        steps=STEPS,
        words=markdown(paragraphs(import_module(kind.__module__))),
        letters="\n".join(_letters(mixer)),
        facts=_facts(mixer),
        fields="\n".join(_field(each) for each in fields(kind)),
    )


def _letters(mixer: Mixer) -> Iterator[str]:
    """A, B, C and D: the form of each, its size at one token, and whether tokens differ in it."""
    system = mixer.system()
    for name in "ABCD":
        part = getattr(system, name)
        numbers = part.dense() if name == "A" else dense_of(part)
        rows, columns = numbers.shape[-2:]
        form = FORMS[type(part)] if name == "A" else "matrix"
        if not numbers.any():
            yield f"| {name} | zero | {rows} × {columns} | |"
        else:
            same = bool((numbers == numbers[..., :1, :, :]).all())
            varies = "the same at every token" if same else "changes from token to token"
            yield f"| {name} | {form} | {rows} × {columns} | {varies} |"


def _facts(mixer: Mixer) -> str:
    """The sentences that the four letters leave open."""
    system, signal = mixer.system(), mixer.signal()
    count = " × ".join(map(str, system.batch))
    systems = f"{count} systems" if count else "one system"
    facts = [
        f"The instance has {systems} (one for each sample, head or channel); columns of the signal "
        f"for each: {signal.shape[-1]}."
    ]
    if system.reads_before_update:
        facts.append("The state is read before it is updated.")
    if system.takes_real_part:
        facts.append("Coefficients are complex; the response is the real part.")
    return " ".join(facts)


def _field(field: Field) -> str:
    axes = axes_of(field.type)
    shown = f"`{axes.strip()}`" if axes is not None else cell(inspect.formatannotation(field.type))
    default = "" if field.default is MISSING else _named(field.default)
    return f"| `{field.name}` | {shown} | {default} |"


def _named(default: object) -> str:
    shown = default.value if isinstance(default, Activation) else default
    return f"`{getattr(shown, '__name__', shown)}`"
