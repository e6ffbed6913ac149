"""A checkpoint and a prompt become an inspection."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from dsf.cli.known_names import NUMBER_TYPES
from dsf.cli.model_argument import check_length, check_numbers, positions, without_tokenizer
from dsf.cli.options import Options
from dsf.cli.progress import part, say, stage
from dsf.cli.prompt import Prompt, check_position, fingerprint
from dsf.cli.threads import ThreadCount
from dsf.evaluate.memory_plan import GB
from dsf.inspection import (
    InspectedLayer,
    Inspection,
    Unsupported,
    inspect,
    inspect_piecewise,
    memory_forecast,
)
from dsf.inspection.capture.environment import environment
from dsf.inspection.choice import chosen_layers, counts_from_the_start
from dsf.inspection.choice import parsed as parsed_choice
from dsf.loading import LoadedModel, load_model, open_piecewise, read_model_tokenizer, token_texts

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in NUMBER_TYPES}

SEED = 0
"""Of the tokens that --random-repeat draws."""


class _OnDisk(NamedTuple):
    """A model whose weights are still on disk, as far as a prompt has to know it."""

    model: Any
    tokenizer: Any | None
    identity: str


def inspect_checkpoint(
    path: str,
    prompt: Prompt,
    threads: ThreadCount,
    options: Options,
    *,
    told: bool = False,
    reported: bool = False,
) -> Inspection:
    """Load a checkpoint, run it on the prompt and rebuild its layers, on threads that suit both.

    Args:
        told: say before the run how much memory it will take.
        reported: whether a report is going to be written, which has to fit as well.

    Raises:
        InspectionMemoryError: if it will take more memory than there is.
        MapTooLarge: if the report will.
        LoadError: if the checkpoint is refused.
        ValueError: if the prompt or an option does not suit the model.
        InspectionError: if no layer is reproduced, or none could be read.
    """
    if options.layerwise:
        return _inspect_layerwise(path, prompt, threads, options)
    opened = open_checkpoint(path, prompt, threads, options)
    return inspect_opened(opened, options, told=told, reported=reported)


@dataclass(frozen=True)
class Opened:
    """A checkpoint in memory, and the input that it is to be run on.

    Attributes:
        loaded: the model and its tokenizer.
        ids: the token numbers.
        names: how each token is shown.
    """

    loaded: LoadedModel
    ids: Int[Tensor, "1 time"]
    names: list[list[str]]

    @property
    def is_spelled(self) -> bool:
        """Whether the tokenizer knows every token number; a model may have room for more."""
        tokenizer = self.loaded.tokenizer
        return tokenizer is not None and int(self.ids.max()) < len(tokenizer)

    def on(self, prompt: Prompt) -> "Opened":
        """The same model with another input.

        Raises:
            ValueError: if the prompt does not suit the model.
        """
        ids = _token_numbers(prompt, self.loaded)
        return Opened(self.loaded, ids, _names(ids, self.loaded))

    def place(self, position: int) -> int:
        """``position`` counted from the first token.

        Raises:
            ValueError: if there is no such token.
        """
        steps = self.ids.shape[1]
        check_position(position, steps)
        return position % steps


def open_checkpoint(
    path: str,
    prompt: Prompt,
    threads: ThreadCount,
    options: Options,
    *,
    others: Sequence[str] = (),
) -> Opened:
    """Load a checkpoint and read the prompt for it, on threads that suit both.

    Args:
        others: further texts that the tokenizer is going to read, which the child process tries.

    Raises:
        LoadError: if the checkpoint is refused.
        ValueError: if the prompt does not suit the model.
    """
    dtype = None if options.dtype is None else DTYPES[options.dtype]
    stage(f"loading {path}")
    loaded = load_model(
        path,
        revision=options.revision,
        offline=options.offline,
        dtype=dtype,
        texts=(*prompt.texts, *others),
    )
    ids = _token_numbers(prompt, loaded)
    threads.suit(sum(part.numel() for part in loaded.model.parameters()) * ids.numel())
    return Opened(loaded, ids, _names(ids, loaded))


def inspect_opened(
    opened: Opened, options: Options, *, told: bool = False, reported: bool = False
) -> Inspection:
    """As ``inspect_checkpoint``, for a model in memory."""
    loaded, ids = opened.loaded, opened.ids
    memory = None if options.memory is None else options.memory * GB
    expected = memory_forecast(loaded.model, exact=options.exact, memory=memory, input_ids=ids)
    if expected is not None and expected.fits:
        words = expected.worded()
        if reported:
            from dsf.report.memory_needs import check_report

            words += f"; the report {check_report(expected) / GB:.1f} GB"
        if told:
            say(words)
    found = inspect(
        loaded.model,
        input_ids=ids,
        tokens=loaded.tokenizer if opened.is_spelled else opened.names,
        exact=options.exact,
        tolerance=options.tolerance,
        strict=options.strict,
        memory=memory,
        progress=follow,
        layers=None if options.layers is None else parsed_choice(options.layers),
        heads=None if options.heads is None else parsed_choice(options.heads),
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


def follow(what: str, done: int, every: int) -> None:
    """Show where an inspection is: ``running the model``, or ``layer 7 of 24``."""
    label = f"{what} {done + 1} of {every}" if every > 1 else what
    if not done:
        stage(label)
    part(label, done, every)


def _inspect_layerwise(
    path: str, prompt: Prompt, threads: ThreadCount, options: Options
) -> Inspection:
    """The same with one block of the model in memory at a time."""
    stage(f"opening {path}")
    piecewise = open_piecewise(path, offline=options.offline)
    tokenizer = read_model_tokenizer(path, offline=options.offline, texts=prompt.texts)
    opened = _OnDisk(piecewise.model, tokenizer, path)
    ids = _token_numbers(prompt, opened)
    threads.suit(sum(part.numel() for part in piecewise.model.parameters()) * ids.numel())
    wanted = None if options.layers is None else parsed_choice(options.layers)
    layers: list[InspectedLayer] = []
    missed: list[Unsupported] = []

    def keep(found: Sequence[InspectedLayer], unread: Sequence[Unsupported]) -> None:
        layers.extend(found)
        missed.extend(unread)

    checks = inspect_piecewise(
        piecewise,
        keep,
        tolerance=options.tolerance,
        strict=options.strict,
        layers=wanted if counts_from_the_start(wanted) else None,
        heads=None if options.heads is None else parsed_choice(options.heads),
        memory=None if options.memory is None else options.memory * GB,
        keeps=True,
        input_ids=ids,
    )
    names = [layer.name for layer in layers]
    chosen = set(names) if counts_from_the_start(wanted) else chosen_layers(names, wanted)
    return Inspection(
        layers=tuple(layer for layer in layers if layer.name in chosen),
        unsupported=tuple(missed),
        model=path,
        tokens=tuple(tuple(names) for names in _names(ids, opened)),
        environment=environment(piecewise.model),
        checks=checks,
    )


def _token_numbers(prompt: Prompt, loaded: "LoadedModel | _OnDisk") -> Int[Tensor, "1 time"]:
    size = _vocabulary_size(loaded.model)
    if prompt.numbers is not None:
        ids = prompt.numbers
    elif prompt.repeat is not None:
        ids = _repeated(prompt.repeat, size, loaded.identity)
    else:
        ids = tokenised(prompt.texts[0], loaded.tokenizer, loaded.identity)
    check_numbers(ids, size, loaded.identity)
    check_length(len(ids), positions_of(loaded.model), loaded.identity)
    return torch.tensor([ids])


def _repeated(count: int, vocabulary: int | None, model: str) -> list[int]:
    """``count`` random tokens, no two alike where there are enough, and the same once more."""
    if vocabulary is None:
        raise ValueError(
            f"{model} has no embedding with numbered tokens, so no random ones can be drawn. "
            "Give --ids."
        )
    rng = torch.Generator().manual_seed(SEED)
    if count <= vocabulary:
        once = torch.randperm(vocabulary, generator=rng)[:count].tolist()
    else:
        once = torch.randint(vocabulary, (count,), generator=rng).tolist()
    return [*once, *once]


def tokenised(text: str, tokenizer: Any | None, model: str) -> list[int]:
    """Token numbers of a text.

    Raises:
        ValueError: if the model has no tokenizer.
    """
    if tokenizer is None:
        raise ValueError(without_tokenizer(model))
    return list(tokenizer(text)["input_ids"])


def _names(ids: Int[Tensor, "1 time"], loaded: "LoadedModel | _OnDisk") -> list[list[str]]:
    numbers = ids[0].tolist()
    if loaded.tokenizer is None:
        return [[str(number) for number in numbers]]
    return [token_texts(loaded.tokenizer, numbers)]


def positions_of(model: Any) -> int | None:
    """How many tokens a model in memory reads at most; None where its settings do not say."""
    return positions(model.config.to_dict())


def _vocabulary_size(model: Any) -> int | None:
    embedding = model.get_input_embeddings()
    return getattr(embedding, "num_embeddings", None)
