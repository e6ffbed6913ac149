"""typeseg's tagger of bytes, asked for the kind of the last byte of a passage."""

from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers.modeling_outputs import CausalLMOutput

from experiments.smaller_states.models import passages_of
from tests.pretrained.tagger import ADAPTER, Tagger, encoded, read_arrays

NAME = "typeseg"
ROOT = Path(__file__).resolve().parents[2]


class Kinds(nn.Module):
    """The tagger, called as a language model of transformers is called.

    Attributes:
        adapters: what reads its mixers.
    """

    adapters = (ADAPTER,)

    def __init__(self, weights: Path):
        super().__init__()
        self.tagger = Tagger(read_arrays(weights / "data" / "mamba_al.npz"))

    def get_input_embeddings(self) -> nn.Module:
        return self.tagger.bytes

    def forward(self, input_ids: Int[Tensor, "sample time"], **_: object) -> CausalLMOutput:
        """Scores of all kinds at every byte."""
        return CausalLMOutput(logits=self.tagger(input_ids))


def passages(count: int, length: int) -> tuple[list[Int[Tensor, "1 time"]], int]:
    """Passages from the files of this repository, of several kinds in turn, and a blank."""
    found = passages_of(ROOT)
    parts = [passage[:, :length] for passage in found]
    parts += [passage[:, -length:] for passage in found]
    spread = torch.linspace(0, len(parts) - 1, count).round().int().tolist()
    return [parts[k] for k in spread], int(encoded(" ")[0, 0])
