"""Run a small model of every recurrent family and write ``families.md``.

    python -m docs.make_families

Models are those of the tests, with parameters that make their layers mix. Nothing on the page is
typed by hand but its head.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
import transformers

import dsf
from dsf.inspection import Inspection
from tests.inspection.families.planted_mistakes import MISTAKES
from tests.inspection.families.test_probing_every_family import PROBES, by_channel, factors
from tests.inspection.families.tiny_models import FAMILIES, build, inputs, off_diagonal_share

PAGE = Path(__file__).resolve().with_name("families.md")
TOKENS, FEW = 21, 9
HEAD = """# Model families

This page lists the recurrent, linear and short-convolution [families](glossary.md#family) of
transformers {release}. Each is rebuilt from a small model whose parameters are drawn so that its
layers mix, on two samples of {tokens} tokens. Softmax attention is read through the library's own
interface in every family that uses it. `dsf inspect MODEL --dry-run` says what is read of one
particular model. The page is written by `python -m docs.make_families`; nothing in it is typed by
hand.

Special cases, each covered by a test: diffllama calls its attention twice per layer, once for each
half of the values; the map of its output head h, before its norm, is that of head h minus λ times
that of head h + H / 2. zaya mixes values with those of the token before: the map is that of the
softmax alone; the whole layer has no map. fnet transforms its tokens without any
values; `dsf.probe` reads it.

The columns are errors and shares:

- *float32* and *float64*: the largest difference between the rebuilt and the captured output of a
  layer, over the largest captured number, in the worst layer of the family, its softmax layers
  included;
- *padded*: the worse of left and right padding, in float64;
- *whole*: the layer from its input to its output, [remainder](glossary.md#remainder) included;
- *probed*: the difference between the map and the one that a [probe](glossary.md#probe) gives, over
  {few} tokens;
- *mixing*: the smallest share of a map's norm that is off its diagonal.

The buffers of minimax are float32 in the library.

| family | class | mixer | float32 | float64 | padded | whole | probed | mixing |
|---|---|---|---|---|---|---|---|---|
"""
MISTAKES_HEAD = """
## Planted mistakes

The comparison has to find mistakes in adapters. Each line is an adapter in which one thing was made
wrong on purpose, and the error of the same models, padded on the left. Every one is refused: for an
error above 1e-5 in float32 or, for the last, which is below that, in float64.

| mistake | family | error |
|---|---|---|
"""


def main() -> None:
    """Write the page, telling every line on the way."""
    page = HEAD.format(release=transformers.__version__, tokens=TOKENS, few=FEW)
    for line in (*families(), MISTAKES_HEAD, *mistakes()):
        print(line, flush=True)
        page += line if line.startswith("\n") else f"{line}\n"
    PAGE.write_text(page, encoding="utf-8")


def families() -> Iterator[str]:
    """One line for every family."""
    for name in sorted(FAMILIES):
        model = build(name)
        single, double = dsf.inspect(model, **inputs(TOKENS)), exact(model)
        own = [one for one in double if type(one.mixer).__name__ == FAMILIES[name].mixer]
        padded = [layer for side in ("left", "right") for layer in exact(model, padding=side)]
        kind = type(model.double().get_submodule(own[0].name)).__name__
        figures = [worst(single), worst(double), worst(padded)]
        figures += [max(whole_error(one) for one in own), probed_error(name, model)]
        cells = [name, f"`{kind}`", FAMILIES[name].mixer, *(f"{figure:.0e}" for figure in figures)]
        yield f"| {' | '.join(cells)} | {min(map(off_diagonal_share, own)):.2f} |"


def mistakes() -> Iterator[str]:
    """One line for every planted mistake."""
    for one in MISTAKES:
        yield f"| {one.what} | {one.family} | {one.error():.1e} |"


def exact(model: torch.nn.Module, padding: str = "none") -> Inspection:
    """An inspection in float64."""
    return dsf.inspect(model, exact=True, **inputs(TOKENS, padding=padding))


def worst(layers: object) -> float:
    """The largest error."""
    return max(layer.error for layer in layers)


def whole_error(layer: dsf.inspection.InspectedLayer) -> float:
    """The error of the layer as a whole, which is compared when it is made."""
    from dsf.inspection.rebuild import whole_and_error

    return whole_and_error(*layer.shell.args[:3])[1]


def probed_error(name: str, model: torch.nn.Module) -> float:
    """The adapter's map against that of unit values, in the first recurrent layer."""
    layers = dsf.inspect(model, **inputs(FEW))
    known = next(one for one in layers if type(one.mixer).__name__ == FAMILIES[name].mixer)
    found = dsf.inspect(model, probe={known.name: PROBES[name]}, **inputs(FEW))
    driven = next(one for one in found if one.family == "probed")
    rows, columns = factors(known)
    expected = rows * by_channel(known)
    return float((by_channel(driven) * columns - expected).abs().max() / expected.abs().max())


if __name__ == "__main__":
    main()
