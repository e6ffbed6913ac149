"""One thing changed in each check, after which its verdict must be another one."""

from collections.abc import Callable

from dsf.certificates import Certificate
from dsf.claims.coefficient_dynamics import finite_form, order_of_the_past, scores, structure
from dsf.mixers.ingredients.feature_maps import exp, identity

BREAKS: dict[str, Callable[[], Certificate]] = {
    "CDY-1": lambda: order_of_the_past.blind_without_decay((order_of_the_past.decaying,)),
    "CDY-2": lambda: scores.variance_of_scores(lambda width: 1 / width),
    "CDY-3": lambda: finite_form.linear_needs_no_more_states(finite_form.square),
    "CDY-5": lambda: scores.zero_weights(exp),
    "CDY-6": lambda: structure.key_transformations(rate=1.0),
    "CDY-7": lambda: structure.feature_maps_do_not_fit(identity),
    "CDY-8": lambda: finite_form.square_is_finite(exp),
    "CDY-9": lambda: structure.normalisation_bounds_rows(lambda weights: weights),
    "CDY-10": lambda: structure.softmax_fits(lambda scores: scores.exp().tril()),
}
