"""One thing changed in each check, after which its verdict must be another one."""

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import torch

from dsf.certificates import Certificate
from dsf.claims.zero_sum import (
    angle,
    averaging,
    bounds,
    forms,
    growth,
    lipschitz,
    orders,
    printed_mask,
    reachable,
    released_layer,
    released_scan,
    two_tokens,
    weighing,
    zero_sums,
)
from dsf.layers.rotary import rotated


def keep(probabilities):
    return probabilities


def twice(probabilities):
    return 2 * reachable.centred(probabilities)


def without_the_length(weights, value):
    return value * max(map(abs, weights)) ** 2


def mean_of_all(u, prior):
    return ((prior + u.sum(dim=0)) / (1 + len(u))).expand_as(u)


a, b, c = zero_sums.SCAN

BREAKS: dict[str, Callable[[], Certificate]] = {
    "ZER-1": lambda: zero_sums.radial_weights_sum_to_zero(weight=zero_sums.e / zero_sums.E),
    "ZER-2": lambda: orders.residuals_shrink_by_their_order(
        weigh=lambda logits, _first, _higher: weighing.last_row(logits, 1.0, 1.0)
    ),
    "ZER-3": lambda: forms.scan_equals_weights(weigh=released_scan.from_probabilities),
    "ZER-4": lambda: zero_sums.scan_coefficients_are_right(coefficients=(a, -b, c)),
    "ZER-5": lambda: forms.system_has_three_keys_of_state(states=2),
    "ZER-6": lambda: reachable.hull_is_strictly_inside(combination=keep),
    "ZER-7": lambda: reachable.deviations_are_zero_sums(combination=keep),
    "ZER-8": lambda: reachable.softmax_reaches_the_affine_hull(weights=(0.75, 0.25)),
    "ZER-9": lambda: reachable.zero_sums_reach_the_span(gates=((0.7, 0.3), (0.3, 0.7))),
    "ZER-10": lambda: two_tokens.two_logits_one_weight(first=0.7, higher=0.3),
    "ZER-11": lambda: bounds.outputs_are_bounded(size=without_the_length),
    "ZER-13": lambda: bounds.weights_are_bounded(
        bound=lambda reach, grown, first, higher: 2 * reach * first + higher * (grown - 1)
    ),
    "ZER-14": lambda: growth.largest_weight_shrinks_like_one_over_t(
        weigh=lambda logits, first, higher: weighing.defined_row(logits, first, 4 * higher)
    ),
    "ZER-15": lambda: growth.bounded_logits_bounded_outputs(
        logits_of=lambda logits: len(logits) * logits
    ),
    "ZER-16": lambda: lipschitz.output_is_lipschitz(factor=1.0),
    "ZER-17": lambda: angle.angle_keeps_the_zero_sum(angle=False),
    "ZER-18": lambda: zero_sums.first_row_is_zero(
        weight=zero_sums.RADIAL + zero_sums.zero / zero_sums.t
    ),
    "ZER-19": lambda: two_tokens.difference_is_in_reach(first=0.5, higher=0.5),
    "ZER-20": lambda: growth.bounded_softmax_dilutes(
        row=lambda logits: growth.softmax_row(2 * logits)
    ),
    "ZER-21": lambda: released_scan.paths_differ(weigh=weighing.defined_row),
    "ZER-22": lambda: released_layer.embedding_is_no_rotation(turn=rotated),
    "ZER-23": lambda: released_scan.scan_sees_later_tokens(stabiliser=lambda logits: logits[0]),
    "ZER-24": lambda: released_layer.encoder_means_are_too_large(mean=mean_of_all),
    "ZER-25": lambda: released_scan.algorithm_keeps_three_sums(states=released_scan.all_states),
    "ZER-27": lambda: reachable.subtraction_enlarges(combination=twice),
    "ZER-28": lambda: reachable.hull_and_span(share=Fraction(1, 6)),
    "ZER-29": lambda: reachable.nothing_is_lost(values=((1.0, 0.0), (0.0, 1.0))),
    "ZER-30": lambda: released_scan.memory_grows_with_the_length(states=released_scan.last_states),
    "ZER-31": lambda: zero_sums.first_rows_differ(kept=False),
    "ZER-32": lambda: zero_sums.gates_differ(other=torch.tanh),
    "ZER-33": lambda: averaging.centred_values_average_out(values=(0, 1)),
    "ZER-34": lambda: averaging.uniform_rows_shrink(weight=Fraction(1, 2)),
    "ZER-35": lambda: growth.linear_share_is_constant(feature_map=lambda x: (3 * x).exp()),
    "ZER-36": lambda: printed_mask.mask_is_multiplied(join=torch.add),
    "ZER-39": lambda: growth.output_grows_with_the_logits(first=0.5, higher=0.5),
    "ZER-40": lambda: bounds.every_reading_is_exceeded(
        constant=lambda deviation, _rho: (
            float(bounds.derived_bound(1.0, np.exp(2.0), 1.0, 1.0)) / len(deviation)
        )
    ),
}
