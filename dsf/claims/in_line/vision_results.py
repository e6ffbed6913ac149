"""What only the training of vision models can show."""

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import out_of_reach


def linear_attention_outperforms() -> Certificate:
    """Not tried at the published size."""
    return out_of_reach(
        "linear attention with injectivity and local modelling outperforms softmax attention",
        "vision models trained on ImageNet for 300 epochs, in pairs that differ in the attention",
    )


CLAIMS = (
    Claim(
        id="INL-27",
        table=Table.PAPER,
        statement=(
            "Linear attention with injectivity and local modelling can outperform softmax "
            "attention."
        ),
        standing=Standing.STATED,
        expected=Verdict.UNKNOWN,
        check=linear_attention_outperforms,
        quote=(
            "… linear attention, as long as endowed with these two properties, can outperform "
            "Softmax attention across various tasks while maintaining lower computation "
            "complexity."
        ),
        place="Abstract",
        hypotheses=("models as configured in LeapLabTHU/InLine@e463a6f",),
        note=(
            "Some of the winning models are hybrids: Swin-T (IIIS), Swin-S (IISS), Swin-B "
            "(InLine in two stages and two blocks) and CSwin (IISS) keep softmax attention in "
            'later stages; DeiT and PVT do not. The first author, issue 9: "We replace all '
            'Softmax attention blocks of DeiT models with InLine attention …"'
        ),
    ),
)
