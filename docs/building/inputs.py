"""The page "What you can pass": every form of input, and every function that takes it.

The tests call every function with every form (``tests/inspection/test_model_input.py``) and read
these same tables, so that the page says what was tried.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import dsf
from dsf.inspection.model_input import OPTIONS

TEXT = "And all our yesterdays have lighted"
PAGE = """# What you can pass

Every function that reads a model takes the same inputs, here for `dsf.inspect`. All forms of one
input give the same numbers.

| input | written |
|---|---|
{forms}

Texts of unequal length are padded under a mask, and each of them has the numbers that it has alone.
Further options mean the same everywhere: {options}. `layers=` takes numbers, slices, names and
patterns, `heads=` numbers and slices: what `inspect` reads, what `attribute` and `audit` list,
what `intervene` and `sweep` edit.

| function | what it returns |
|---|---|
{functions}

On the command line the same is `--text`, `--file` or `--ids`, with `--dtype`, `--device`,
`--revision` and `--offline`, `--layers` and `--heads`.
"""

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def _encoded(one: Any) -> Any:
    return one.tokenizer(TEXT, return_tensors="pt")


def _said(one: Any) -> Any:
    """The tokenizer, with a template that says the content of a message and nothing more."""
    one.tokenizer.chat_template = "{{ messages[0]['content'] }}"
    return one.tokenizer


FORMS: Mapping[str, tuple[str, Callable[[Any], Arguments]]] = {
    "a model in memory, its tokenizer and a text": (
        'inspect(model, "...", tokenizer=tokenizer)',
        lambda one: ((one.model, TEXT), {"tokenizer": one.tokenizer}),
    ),
    "the text by its name": (
        'inspect(model, text="...", tokenizer=tokenizer)',
        lambda one: ((one.model,), {"text": TEXT, "tokenizer": one.tokenizer}),
    ),
    "several texts": (
        'inspect(model, ["...", "..."], tokenizer=tokenizer)',
        lambda one: ((one.model, [TEXT]), {"tokenizer": one.tokenizer}),
    ),
    "a conversation": (
        'inspect(model, messages=[{"role": "user", "content": "..."}], tokenizer=tokenizer)',
        lambda one: (
            (one.model,),
            {"messages": [{"role": "user", "content": TEXT}], "tokenizer": _said(one)},
        ),
    ),
    "what a tokenizer returns": (
        'inspect(model, tokenizer("...", return_tensors="pt"))',
        lambda one: ((one.model, _encoded(one)), {}),
    ),
    "any mapping of tensors": (
        "inspect(model, batch)",
        lambda one: ((one.model, dict(_encoded(one))), {}),
    ),
    "a mapping by its names": (
        "inspect(model, **batch)",
        lambda one: ((one.model,), dict(_encoded(one))),
    ),
    "a folder, a GGUF file or a hub id, and a text": (
        'inspect(folder, "...")',
        lambda one: ((one.identity, TEXT), {}),
    ),
    "the same, and token numbers": (
        "inspect(folder, input_ids=ids)",
        lambda one: ((one.identity,), {"input_ids": _encoded(one)["input_ids"]}),
    ),
}
"""By what is passed how it is written, and how it is made for a loaded model."""

FUNCTIONS: Mapping[str, tuple[str, Callable[..., Any]]] = {
    "inspect": (
        "the token mixers, each with its map and its error",
        lambda *args, **named: [layer.map() for layer in dsf.inspect(*args, **named)],
    ),
    "attribute": (
        "shares of a logit by token, layer and edge",
        lambda *args, **named: dsf.attribute(*args, **named).tokens,
    ),
    "stack": (
        "the blocks as affine steps, for several attributions",
        lambda *args, **named: list(dsf.stack(*args, **named).hidden),
    ),
    "intervene": (
        "the output with and without edits",
        lambda *args, **named: dsf.intervene(*args, **named, edits=dsf.edits.Cut(0, key=1)).output,
    ),
    "sweep": (
        "the effect of every edit",
        lambda *args, **named: dsf.sweep(*args, **named, edits=[dsf.edits.Cut(0, key=1)], target=3),
    ),
    "compare": (
        "two models next to each other",
        lambda model, *args, **named: [
            row["first"]
            for row in dsf.compare(model, model, *args, **named, verdicts=False)
            if row["quantity"] == "map_distance"
        ],
    ),
    "audit": (
        "where two runs of a model part",
        lambda *args, **named: dsf.audit(*args, **named, dtype="bfloat16", target=3).reference,
    ),
}
"""By the name of a function what it returns, and numbers of it."""


def pages() -> Iterator[tuple[str, str]]:
    """The page."""
    forms = (f"| {name} | `dsf.{code}` |" for name, (code, _) in FORMS.items())
    functions = (f"| `dsf.{name}` | {words} |" for name, (words, _) in FUNCTIONS.items())
    options = ", ".join(f"`{name}`" for name in OPTIONS)
    yield (
        "inputs.md",
        PAGE.format(forms="\n".join(forms), functions="\n".join(functions), options=options),
    )
