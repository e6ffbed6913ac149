"""Which parameters of a language model decay while it is trained."""

from torch import nn


def matrices_decay(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """For an optimiser: matrices decay; poles, step sizes, skips, norms and biases do not."""
    decays, stays = [], []
    for name, parameter in model.named_parameters():
        matrix = parameter.ndim > 1 and not name.endswith("A_log")
        (decays if matrix else stays).append(parameter)
    return [
        {"params": decays, "weight_decay": weight_decay},
        {"params": stays, "weight_decay": 0.0},
    ]
