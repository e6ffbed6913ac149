"""What MetaLA (arXiv:2411.10741) says of the mixers it lists."""

from typing import NamedTuple


class Printed(NamedTuple):
    """A row of its table.

    Attributes:
        groups: which of Q, K and Λ the model keeps; Λ_t for a decay that follows the input.
        letters: C0 to C3 as y or n, a dot where the table says nothing.
    """

    groups: str
    letters: str


PRINTED = {
    "SoftmaxAttention": Printed("Q K", "nyy."),
    "LinearAttention": Printed("Q K", "ynyn"),
    "MetaLinearAttention": Printed("Q Λ_t", "yyyy"),
    "Retention": Printed("Q K Λ", "ynnn"),
    "GatedLinearAttention": Printed("Q K Λ_t", "yyyn"),
    "HGRN": Printed("Λ_t", "yynn"),
    "RWKV4": Printed("K Λ", "ynnn"),
    "DiagonalStateSpace": Printed("Q K Λ", "ynnn"),
    "S5": Printed("Λ", "ynnn"),
    "LRU": Printed("Λ", "ynnn"),
    "SelectiveStateSpace": Printed("Q K Λ_t", "yyyn"),
    "RGLRU": Printed("Λ_t", "yynn"),
}


def agrees(found: str, printed: str) -> bool:
    """Whether the letters are the printed ones, wherever there is a printed one."""
    return all(b in (a, ".") for a, b in zip(found, printed, strict=True))
