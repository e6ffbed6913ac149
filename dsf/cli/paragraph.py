"""A language model on a paragraph of text: its next tokens, its layers and its sinks."""

from dataclasses import dataclass
from typing import Any

import torch

from dsf.cli.threads import ThreadCount
from dsf.inspection import Inspection, inspect
from dsf.loading import LoadedModel, LoadError, load_model, token_texts
from dsf.measures import sink_mass

PROMPT = "The capital of France is"
PARAGRAPH = (
    "A lighthouse keeper wrote one line in his log every evening: the height of the sea, the "
    "direction of the wind, and the names of the ships that passed. After thirty years the log "
    "held eleven thousand lines. When a young sailor asked him which evening had been the most "
    "beautiful, the lighthouse keeper did not look it up. He said that the height of the sea and "
    "the direction of the wind had never told him that, and that he remembered the names of the "
    "ships."
)
SHOWN = 5
SINK = 0.3  # of a head's weight, as in dsf.measures.sink_rate


@dataclass(frozen=True)
class Read:
    """What a language model made of the paragraph.

    Attributes:
        inspection: its layers on the paragraph.
        continued: the likeliest next tokens of the prompt and their probabilities, likeliest first.
        sinks: for every layer how many of its heads put more than ``SINK`` of their weight on the
            first token, of how many heads, and the mean share of all of them.
    """

    inspection: Inspection
    continued: list[tuple[str, float]]
    sinks: list[tuple[str, int, int, float]]

    @property
    def facts(self) -> dict[str, str]:
        """The next tokens and the sinks in one line each, for a person."""
        likeliest = ", ".join(f"{token!r} {share:.0%}" for token, share in self.continued)
        resting = sum(count for _, count, _, _ in self.sinks)
        heads = sum(count for _, _, count, _ in self.sinks)
        return {
            f"Next after {PROMPT!r}": likeliest,
            "Sinks": f"{resting} of {heads} heads put more than {SINK:.0%} of their weight on the "
            "first token",
        }


def read_paragraph(path: str, threads: ThreadCount) -> Read:
    """Continue the prompt and inspect the model on the paragraph.

    Raises:
        LoadError: if the checkpoint is refused, or has no tokenizer.
        ValueError: if the model predicts no tokens.
    """
    loaded = load_model(path, texts=[PARAGRAPH])
    if loaded.tokenizer is None:
        raise LoadError(f"{path}: has no tokenizer, so it cannot read a paragraph of text.")
    ids = torch.tensor([loaded.tokenizer(PARAGRAPH)["input_ids"]])
    threads.suit(sum(part.numel() for part in loaded.model.parameters()) * ids.numel())
    continued = _continued(loaded)
    texts = token_texts(loaded.tokenizer, ids[0].tolist())
    found = inspect(loaded.model, input_ids=ids, tokens=[texts])
    sinks = []
    for layer in found:
        shares = sink_mass(layer.system).flatten()
        resting = int((shares > SINK).sum())
        sinks.append((layer.name, resting, shares.numel(), shares.mean().item()))
    return Read(found, continued, sinks)


def _continued(loaded: LoadedModel) -> list[tuple[str, float]]:
    tokenizer: Any = loaded.tokenizer
    ids = torch.tensor([tokenizer(PROMPT)["input_ids"]])
    with torch.no_grad():
        scores = getattr(loaded.model(input_ids=ids), "logits", None)
    if scores is None or scores.shape[:2] != ids.shape:
        raise ValueError(
            f"{loaded.identity} predicts no tokens ({type(loaded.model).__name__}); pass a "
            "language model, or use dsf inspect."
        )
    shares, tokens = scores[0, -1].double().softmax(dim=-1).topk(SHOWN)
    return list(zip(token_texts(tokenizer, tokens.tolist()), shares.tolist(), strict=True))
