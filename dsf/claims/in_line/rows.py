"""What the rows of InLine attention sum to, and which signs they hold."""

import numpy as np
import torch

from dsf.certificates import Certificate, Verdict
from dsf.certificates.identities import Row, in_line_row, in_line_sums_to_one
from dsf.claims.claim import Claim, Standing
from dsf.evaluate import attention_map
from dsf.measures import negative_share
from dsf.mixers import InLineAttention


def rows_sum_to_one(row: Row = in_line_row) -> Certificate:
    """Sum the row with symbols, for any number of tokens."""
    return in_line_sums_to_one(row)


CLAIMS = (
    Claim(
        id="INL-9",
        statement="Rows of InLine attention sum to 1 and may hold negative weights.",
        standing=Standing.STATED,
        expected=Verdict.PROVED,
        check=rows_sum_to_one,
    ),
)
