"""What only training can show."""

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import out_of_reach


def closest_to_the_transformer() -> Certificate:
    """Not tried at its size."""
    return out_of_reach(
        "ZeroS is ahead of other linear-time models and closest to the Transformer on MAD",
        "some hundred training runs on accelerators: MAD and MQAR sweeps, language models of up to "
        "768 channels in 12 layers, DeiT-Tiny on ImageNet",
    )


def matches_softmax() -> Certificate:
    """Needs a table whose body was not read."""
    return out_of_reach(
        "ZeroS matches or exceeds standard softmax attention across benchmarks",
        "the paper's Table 1, whose body was not read, and training at its sizes",
    )


def ahead_on_reg_bench() -> Certificate:
    """Not tried at its size."""
    return out_of_reach(
        "ZeroS is ahead of linear-time baselines on RegBench",
        "training every model on RegBench at the published sizes",
    )


CLAIMS = (
    Claim(
        id="ZER-26",
        table=Table.PAPER,
        statement=(
            "On MAD ZeroS is ahead of other linear-time models and closest to the Transformer."
        ),
        standing=Standing.STATED,
        expected=Verdict.UNKNOWN,
        check=closest_to_the_transformer,
        quote=(
            "… ZeroS outperforms other lineartime models …, achieving performance closest to "
            "Transformer, while ZeroS-SM further improves upon Transformer's average score."
        ),
        place="MAD",
        hypotheses=(
            'WikiText: "ZeroS outperforms vanilla Transformer at this smaller scale"',
            'MQAR: "comparably to vanilla attention across most configurations"',
            ('ImageNet: above "TNN [63] and HGRN1 [64] under comparable parameter budgets"'),
        ),
        note="A small ablation by orders is in experiments/zero_sum.",
    ),
    Claim(
        id="ZER-37",
        table=Table.PAPER,
        statement=(
            "ZeroS matches or exceeds standard softmax attention across sequence modelling "
            "benchmarks."
        ),
        standing=Standing.STATED,
        expected=Verdict.UNKNOWN,
        check=matches_softmax,
        quote=(
            "Empirically, it matches or exceeds standard softmax attention across various "
            "sequence modeling benchmarks."
        ),
        place="Abstract",
        hypotheses=('MAD: "performance closest to Transformer"',),
        note="Decidable in part from Table 1.",
    ),
    Claim(
        id="ZER-38",
        table=Table.PAPER,
        statement="On RegBench ZeroS is ahead of linear-time baselines.",
        standing=Standing.STATED,
        expected=Verdict.UNKNOWN,
        check=ahead_on_reg_bench,
        quote=(
            "ZeroS outperforms linear-time baselines including GLA, RetNet [58], and RWKV [59]."
        ),
        place="RegBench",
        hypotheses=("GLA, RetNet, RWKV",),
        note="The same is open for OpenWebText2, time series and ZeroS-SM.",
    ),
)
