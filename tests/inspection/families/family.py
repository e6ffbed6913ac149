"""What it takes to build the smallest model of a family."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

VOCABULARY = 40
PADDING = 0

# Sizes differ from one another wherever they can, so that two axes in the wrong order are an error.
WIDTH = {"vocab_size": VOCABULARY, "hidden_size": 16, "pad_token_id": PADDING}
ATTENTION = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 24}
TWO_AND_SOFTMAX = {
    "num_hidden_layers": 3,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
}
EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 12}


@dataclass(frozen=True)
class Family:
    """How to build the smallest model of a family that has everything its layers can have.

    Attributes:
        model: the model's class; its configuration is ``model.config_class``.
        settings: of the configuration.
        mixer: what the family's recurrent layers become.
        recurrent, softmax: how many layers of either kind the model has.
        redrawn: whether the parameters are drawn anew; some families mix as initialised.
        exact: the largest error in float64; more where the library computes a buffer in float32.
    """

    model: str
    settings: Mapping[str, Any]
    mixer: str
    recurrent: int = 2
    softmax: int = 0
    redrawn: bool = True
    exact: float = 1e-12
