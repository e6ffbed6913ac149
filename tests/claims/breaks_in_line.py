"""One thing changed in each check, after which its verdict must be another one."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import torch

from dsf.certificates import Certificate
from dsf.claims.in_line import (
    confusion,
    expansion,
    forms,
    in_line_injectivity,
    linear_injectivity,
    local_residual,
    locality,
    parameters,
    printed_weights,
    rows,
    softmax_injectivity,
    wall_clock,
)
from dsf.claims.in_line.figure_one import PANELS
from dsf.claims.in_line.weights import linear_rows
from dsf.mixers.ingredients.feature_maps import elu_plus_one, identity, relu


def rank_of_keys_alone(key):
    return int(torch.linalg.matrix_rank(key)) == key.shape[-1]


def one_query_moved():
    panel = PANELS["a"]
    first, *others = panel.queries
    return replace(panel, queries=((first[0] + 0.1, first[1]), *others))


BREAKS: dict[str, Callable[[], Certificate]] = {
    "INL-1": lambda: softmax_injectivity.injective_iff_full_rank(rank_of_keys_alone),
    "INL-2": lambda: softmax_injectivity.first_rank_follows(needed=2),
    "INL-3": lambda: linear_injectivity.never_injective_up_to_width(lambda q, _: q + 1),
    "INL-4": lambda: linear_injectivity.more_features_can_be_injective(identity),
    "INL-5": lambda: linear_injectivity.jacobian_ranks(null=lambda f, q: f(q) + 1),
    "INL-6": lambda: in_line_injectivity.injective_with_such_features(((relu, identity),)),
    "INL-8": lambda: softmax_injectivity.early_causal_rows_collide(tokens=4),
    "INL-9": lambda: rows.rows_sum_to_one(lambda scores: scores),
    "INL-10": lambda: forms.linear_time_form(lambda scores, value: scores.T * value),
    "INL-11": lambda: forms.released_code(lambda scores: forms.released(2 * scores)),
    "INL-12": lambda: expansion.first_order(factor=2),
    "INL-13": lambda: forms.order(extra=0),
    "INL-14": lambda: printed_weights.weights_follow_from_arrows(one_query_moved()),
    "INL-15": lambda: printed_weights.figure_uses_the_factors(scale=1.0),
    "INL-16": lambda: rows.sign_changing_kernels(elu_plus_one),
    "INL-17": lambda: locality.uniform_mass(Fraction(9, 196)),
    "INL-18": lambda: local_residual.row_sums_with_residual(lambda _row, _column: True),
    "INL-19": lambda: parameters.counted(
        {"InLine-DeiT-T": replace(parameters.SIZES["InLine-DeiT-T"], heads=4)}
    ),
    "INL-20": lambda: confusion.counted(lambda q, k: linear_rows(q, k, feature_map=relu)),
    "INL-22": lambda: wall_clock.faster_beyond_width(
        quick=wall_clock.softmax, slow=wall_clock.in_line
    ),
    "INL-23": lambda: parameters.readme_and_figure_differ(figure=parameters.README),
    "INL-24": lambda: expansion.zero_sum_with_gates(higher=1),
    "INL-25": lambda: in_line_injectivity.not_injective_with_relu(identity),
}
