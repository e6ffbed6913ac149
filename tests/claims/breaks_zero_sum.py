"""One thing changed in each check, after which its verdict must be another one."""

from collections.abc import Callable

import numpy as np

from dsf.certificates import Certificate
from dsf.claims.zero_sum import (
    angle,
    bounds,
    forms,
    growth,
    lipschitz,
    orders,
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
    "ZER-7": lambda: reachable.centred_softmax_is_all_of_it(combination=twice),
    "ZER-8": lambda: reachable.softmax_reaches_the_affine_hull(weights=(0.75, 0.25)),
    "ZER-9": lambda: reachable.zero_sums_reach_the_span(gates=((0.7, 0.3), (0.3, 0.7))),
    "ZER-10": lambda: two_tokens.logits_to_weights_is_one_to_one(first=0.7, higher=0.3),
    "ZER-11": lambda: bounds.outputs_are_bounded(size=without_the_length),
    "ZER-12": lambda: bounds.stated_constant_holds(
        constant=lambda deviation, _rho: (
            float(bounds.derived_bound(1.0, np.exp(2.0), 1.0, 1.0)) / len(deviation)
        )
    ),
    "ZER-13": lambda: bounds.weights_are_bounded(
        bound=lambda reach, grown, first, higher: 2 * reach * first + higher * (grown - 1)
    ),
    "ZER-14": lambda: growth.largest_weight_shrinks_like_one_over_t(
        weigh=lambda logits, first, higher: weighing.defined_row(logits, first, 4 * higher)
    ),
    "ZER-15": lambda: growth.output_is_as_stable_as_softmax(first=0.5, higher=0.5),
    "ZER-16": lambda: lipschitz.output_is_lipschitz(factor=1.0),
    "ZER-17": lambda: angle.angle_keeps_the_zero_sum(angle=False),
    "ZER-18": lambda: zero_sums.first_row_is_zero(
        weight=zero_sums.RADIAL + zero_sums.zero / zero_sums.t
    ),
    "ZER-19": lambda: two_tokens.difference_is_in_reach(first=0.5, higher=0.5),
    "ZER-20": lambda: growth.bounded_softmax_dilutes(
        row=lambda logits: growth.softmax_row(2 * logits)
    ),
    "ZER-21": lambda: released_scan.paths_agree(weigh=weighing.defined_row),
    "ZER-22": lambda: released_layer.embedding_is_a_rotation(turn=rotated),
    "ZER-23": lambda: released_scan.scan_is_causal(stabiliser=lambda logits: logits[0]),
    "ZER-24": lambda: released_layer.encoder_means_are_means(mean=mean_of_all),
    "ZER-25": lambda: released_scan.memory_is_quadratic_in_the_width(
        states=released_scan.last_states
    ),
}
