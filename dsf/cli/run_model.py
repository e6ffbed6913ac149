"""A checkpoint and a prompt become an inspection."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from dsf.cli.command import Run
from dsf.cli.early_checks import check_length, check_numbers, positions, without_tokenizer
from dsf.cli.options import Inspecting, Loading, Prompt, check_position, fingerprint
from dsf.cli.terminal import part, say, stage
from dsf.evaluate.memory_plan import GB
from dsf.inspection import Inspection, inspect, memory_forecast
from dsf.loading import LoadedModel, load_model, token_texts
from dsf.loading.building import input_embeddings

SEED = 0
"""Of the tokens that --random-repeat draws."""


@dataclass(frozen=True)
class Opened:
    """A checkpoint in memory, and the input that it is to be run on."""

    loaded: LoadedModel
    ids: Int[Tensor, "1 time"]

    @cached_property
    def names(self) -> list[list[str]]:
        numbers, tokenizer = self.ids[0].tolist(), self.loaded.tokenizer
        return [list(map(str, numbers)) if tokenizer is None else token_texts(tokenizer, numbers)]

    @property
    def notes(self) -> Mapping[str, str]:
        return {"": " ".join(self.loaded.notes)}

    def on(self, prompt: Prompt) -> "Opened":
        return Opened(self.loaded, _token_numbers(prompt, self.loaded))

    def place(self, position: int) -> int:
        """``position`` counted from the first token."""
        steps = self.ids.shape[1]
        check_position(position, steps)
        return position % steps

    def likeliest(self, logits: Tensor, top: int, *, named: bool = True) -> list[dict[str, Any]]:
        """The likeliest tokens of one row of logits; ``named`` is whether they are tokens."""
        shares, ids = logits.double().softmax(dim=-1).topk(min(top, logits.numel()))
        numbers, tokenizer = ids.tolist(), self.loaded.tokenizer
        named = named and tokenizer is not None
        names = token_texts(tokenizer, numbers) if named else list(map(str, numbers))
        return [
            {"token": name, "id": number, "probability": share}
            for name, number, share in zip(names, numbers, shares.tolist(), strict=True)
        ]

    def token(self, position: int) -> str:
        """The number and the text of a token, such as ``3 ' France'``."""
        return f"{position} {self.names[0][position]!r}"


def open_checkpoint(
    path: str,
    prompt: Prompt,
    run: Run,
    options: Loading,
    *,
    others: Sequence[str] = (),
) -> Opened:
    """Load a checkpoint and read the prompt for it, on threads that suit both."""
    stage(f"loading {path}")
    loaded = load_model(
        path,
        revision=options.revision,
        offline=options.offline,
        dtype=None if options.dtype is None else getattr(torch, options.dtype),
        mapped=isinstance(options, Inspecting) and options.layerwise,
        texts=(*prompt.texts, *others),
    )
    ids = _token_numbers(prompt, loaded)
    run.suit(sum(part.numel() for part in loaded.model.parameters()) * ids.numel())
    if options.device is not None:
        try:
            torch.empty(0, device=options.device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"--device: expected a device of this machine, got {options.device!r} ({reason}). "
                "Leave it out."
            ) from None
        loaded.model.to(options.device)
        ids = ids.to(options.device)
    return Opened(loaded, ids)


def inspect_checkpoint(
    path: str,
    prompt: Prompt,
    run: Run,
    options: Inspecting,
    *,
    forecast: bool = False,
    reported: bool = False,
) -> Inspection:
    """Load a checkpoint, run it on the prompt and rebuild its layers, on threads that suit both."""
    opened = open_checkpoint(path, prompt, run, options)
    return inspect_opened(opened, options, forecast=forecast and run.is_watched, reported=reported)


def inspect_opened(
    opened: Opened, options: Inspecting, *, forecast: bool = False, reported: bool = False
) -> Inspection:
    """As ``inspect_checkpoint``, for a model in memory."""
    loaded, ids = opened.loaded, opened.ids
    memory = None if options.memory is None else options.memory * GB
    needs = memory_forecast(loaded.model, exact=options.exact, memory=memory, input_ids=ids)
    if needs is not None and needs.fits:
        words = needs.worded()
        if reported:
            from dsf.report.content import check_report

            words += f"; the report {check_report(needs) / GB:.1f} GB"
        if forecast:
            say(words)
    # A model may have room for more tokens than its tokenizer knows.
    tokenizer = loaded.tokenizer
    is_spelled = tokenizer is not None and int(ids.max()) < len(tokenizer)
    found = inspect(
        loaded.model,
        input_ids=ids,
        tokens=tokenizer if is_spelled else opened.names,
        exact=options.exact,
        tolerance=options.tolerance,
        strict=options.strict,
        memory=memory,
        progress=follow,
        layers=options.layers,
        heads=options.heads,
    )
    origin = {
        "revision": loaded.revision or "",
        "weights": f"sha256 {loaded.weights_hash}",
        "configuration": f"sha256 {loaded.config_hash}",
        "input": fingerprint(ids[0].tolist()),
        "on loading": " ".join(loaded.notes),
    }
    known = {name: value for name, value in origin.items() if value}
    return replace(found, model=loaded.identity, environment={**found.environment, **known})


def notes_of(inspection: Inspection) -> Mapping[str, str]:
    return {"": inspection.environment.get("on loading", "")}


def follow(what: str, done: int, every: int) -> None:
    """Show where an inspection is: ``running the model``, or ``layer 7 of 24``."""
    label = f"{what} {done + 1} of {every}" if every > 1 else what
    if not done:
        stage(label)
    part(label, done, every)


def _token_numbers(prompt: Prompt, loaded: LoadedModel) -> Int[Tensor, "1 time"]:
    model: Any = loaded.model
    identity = loaded.identity
    vocabulary = getattr(input_embeddings(model), "num_embeddings", None)
    if prompt.ids is not None:
        ids = list(prompt.ids)
    elif prompt.repeat is not None:
        ids = _repeated(prompt.repeat, vocabulary, identity)
    else:
        ids = tokenised(prompt.texts[0], loaded.tokenizer, identity)
    check_numbers(ids, vocabulary, identity)
    check_length(len(ids), positions(model.config.to_dict()), identity)
    return torch.tensor([ids])


def _repeated(count: int, vocabulary: int | None, model: str) -> list[int]:
    """``count`` random tokens, no two alike where there are enough, and the same once more."""
    if vocabulary is None:
        raise ValueError(
            f"{model}: expected an embedding with numbered tokens to draw random ones, got none. "
            "Give --ids."
        )
    rng = torch.Generator().manual_seed(SEED)
    if count <= vocabulary:
        once = torch.randperm(vocabulary, generator=rng)[:count].tolist()
    else:
        once = torch.randint(vocabulary, (count,), generator=rng).tolist()
    return [*once, *once]


def tokenised(text: str, tokenizer: Any | None, model: str) -> list[int]:
    if tokenizer is None:
        raise ValueError(without_tokenizer(model))
    return list(tokenizer(text)["input_ids"])
