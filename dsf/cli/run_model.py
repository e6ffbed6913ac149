"""A checkpoint and a prompt become an inspection."""

from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from dsf.cli.threads import ThreadCount
from dsf.inspection import Inspection, inspect
from dsf.loading import LoadedModel, load_model


@dataclass(frozen=True)
class Prompt:
    """The input of a model: one of text, token numbers, or a file of text."""

    text: str | None
    ids: str | None
    file: Path | None

    def __post_init__(self) -> None:
        given = [part for part in (self.text, self.ids, self.file) if part is not None]
        if len(given) != 1:
            raise ValueError(
                f"needs one input, but got {len(given)}. Give exactly one of --text, --ids and "
                f"--file, such as --ids '1 2 3'."
            )


def inspect_checkpoint(
    path: str,
    prompt: Prompt,
    threads: ThreadCount,
    *,
    exact: bool,
    offline: bool,
    revision: str | None,
) -> Inspection:
    """Load a checkpoint, run it on the prompt and rebuild its layers, on threads that suit both.

    Raises:
        LoadError: if the checkpoint is refused.
        ValueError: if the prompt does not suit the model.
        InspectionError: if a layer is not reproduced, or none could be read.
    """
    loaded = load_model(path, revision=revision, offline=offline)
    ids = _token_numbers(prompt, loaded)
    names = _names(ids, loaded)
    threads.suit(sum(part.numel() for part in loaded.model.parameters()) * ids.numel())
    found = inspect(loaded.model, input_ids=ids, tokens=names, exact=exact)
    origin = {
        "revision": loaded.revision or "",
        "weights": f"sha256 {loaded.weights_hash[:16]}",
        "configuration": f"sha256 {loaded.config_hash[:16]}",
        "input": f"sha256 {sha256(str(ids.tolist()).encode()).hexdigest()[:16]}",
    }
    known = {name: value for name, value in origin.items() if value}
    return replace(found, model=loaded.identity, environment={**found.environment, **known})


def _token_numbers(prompt: Prompt, loaded: LoadedModel) -> Int[Tensor, "1 time"]:
    if prompt.ids is not None:
        ids = parsed(prompt.ids)
    else:
        text = prompt.text if prompt.file is None else prompt.file.read_text(encoding="utf-8")
        ids = tokenised(str(text), loaded.tokenizer, loaded.identity)
    size = _vocabulary_size(loaded.model)
    if not ids or (size is not None and not all(0 <= number < size for number in ids)):
        span = "at least one token" if size is None else f"one or more numbers from 0 to {size - 1}"
        raise ValueError(f"{loaded.identity} reads {span}, but the input is {ids[:8]}.")
    return torch.tensor([ids])


def parsed(ids: str) -> list[int]:
    """Token numbers with spaces or commas between them.

    Raises:
        ValueError: if something else is there.
    """
    try:
        return [int(word) for word in ids.replace(",", " ").split()]
    except ValueError:
        raise ValueError(
            f"token numbers must be whole numbers with spaces or commas between them, but they are "
            f"{ids!r}."
        ) from None


def tokenised(text: str, tokenizer: Any | None, model: str) -> list[int]:
    """Token numbers of a text.

    Raises:
        ValueError: if the model brings no tokenizer.
    """
    if tokenizer is None:
        raise ValueError(
            f"{model} brings no tokenizer, so text cannot be read. Give token numbers: "
            f"--ids '1 2 3'."
        )
    return list(tokenizer(text)["input_ids"])


def _names(ids: Int[Tensor, "1 time"], loaded: LoadedModel) -> list[list[str]]:
    numbers = ids[0].tolist()
    if loaded.tokenizer is None:
        return [[str(number) for number in numbers]]
    return [[str(token) for token in loaded.tokenizer.convert_ids_to_tokens(numbers)]]


def _vocabulary_size(model: Any) -> int | None:
    embedding = model.get_input_embeddings()
    return getattr(embedding, "num_embeddings", None)
