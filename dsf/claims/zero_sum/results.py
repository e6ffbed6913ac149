"""What only training can show."""

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing
from dsf.claims.deciding import out_of_reach


def tables_are_reproduced() -> Certificate:
    """Not tried at their size."""
    return out_of_reach(
        "the published results of ZeroS on MAD, WikiText-103, ImageNet and MQAR are reproduced",
        "some hundred training runs on accelerators: MAD and MQAR sweeps, language models of up to "
        "768 channels in 12 layers, DeiT-Tiny on ImageNet",
    )


CLAIMS = (
    Claim(
        id="ZER-26",
        statement=(
            "ZeroS is close to softmax attention on MAD and MQAR and ahead of it on WikiText-103 "
            "and ImageNet."
        ),
        standing=Standing.SECOND_HAND,
        expected=Verdict.UNKNOWN,
        check=tables_are_reproduced,
        note="A small ablation by orders is in experiments/zero_sum.",
    ),
)
