"""One thing changed in each check, after which its verdict must be another one."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import partial

import numpy as np
import sympy
import torch

import dsf
from dsf import mixers
from dsf.certificates import Certificate
from dsf.mixers import ingredients
from papers.coefficient_dynamics import checks as cdy
from papers.dynamical_systems import checks as fw
from papers.eigenvalues import checks as eig
from papers.in_line import checks as inl
from papers.meta_linear import checks as mla
from papers.zero_sum import checks as zer
from papers.zero_sum.weighing import all_states, from_probabilities, last_states

identity, relu, exp = ingredients.identity, ingredients.relu, ingredients.exp


def reads_late(system):
    """Every token reads the state before its update."""
    return replace(system, reads_before_update=True)


def few_features(query, key):
    """Weights of linear attention, of 17 features, too few for 64 tokens."""
    return (query @ key.T).square() + 1


def still(steps, states):
    """Bases that change nothing."""
    return torch.eye(states, dtype=torch.float64).expand(steps + 1, states, states)


def half_open(sizes):
    return np.histogram(sizes, eig.EDGES)[0]


def key_before_decay(state, decay, key, value):
    """The new value fades with the old ones."""
    return (
        mla.one_token(state, decay, 0 * key, value)
        + mla.one_token(0 * state, decay, key, value) * decay[1]
    )


def value_written_twice(state, decay, key, value):
    """Twice the new value: no decay puts the value itself in a row's place."""
    return mla.one_token(state, decay, 2 * key, value)


def reads_before_update(*, query, key, decay, value):
    """The unified form with a read one token early."""
    held = mla.unified(query=query.roll(-1, 0), key=key, decay=decay, value=value)
    return torch.cat([torch.zeros_like(held[:1]), held[:-1]])


def with_a_fixed_decay():
    """All layers, MetaLA's with a decay that no token changes."""
    others = [kind for kind in dsf.layers.ALL if kind is not dsf.layers.MetaLinearAttention]
    return [partial(dsf.layers.MetaLinearAttention, fixed_decay=True), *others]


def keep(probabilities):
    return probabilities


a, b, c = zer.SCAN
KEY_1_UP = (("0.8", "-0.5", "0.8"), *mla.KEYS[1:])

MUTANTS: dict[str, Callable[[], Certificate]] = {
    "DSF-1": partial(fw.forms_agree, reads_late),
    "DSF-2": partial(fw.write_index, lambda normaliser: normaliser),
    "DSF-3": partial(fw.never_reads_ahead, dsf.systems.algebra.reverse),
    "DSF-5": partial(fw.no_state_serves_every_length, few_features),
    "DSF-6": partial(fw.prefix_needs_half, partial(mixers.SoftmaxAttention, softcap=1.0)),
    "DSF-11": partial(fw.softplus_is_a_power, 1),
    "DSF-12": partial(
        fw.duality_is_separable, lambda rate, step: (rate * (step.cumsum(dim=0) - step)).exp()
    ),
    "DSF-13": partial(fw.key_alone_does_not_suffice, 0.0),
    "DSF-15": partial(fw.channels_have_maps_of_their_own, ((1.0, 2.0, 3.0), (1.0, 2.0, 3.0))),
    "DSF-16": partial(fw.zero_padding, 1),
    "DSF-17": partial(fw.spectrum_depends_on_the_basis, still),
    "DSF-18": partial(fw.normaliser_is_a_gate, lambda normaliser: 1 / normaliser.roll(1)),
    "DSF-19": partial(fw.stability_by_normalisation, lambda scores: scores),
    "DSF-20": partial(fw.reversed_gate, 0.9),
    "DSF-21": partial(fw.rank_is_not_the_state, causal=False),
    "DSF-24": partial(fw.first_steps, lambda module: module),
    "DSF-26": partial(fw.runs_in_the_grids, 4),
    "DSF-29": partial(fw.series_of_features, lambda _powers: sympy.Integer(1)),
    "DSF-30": partial(fw.features_of_one_token, lambda query, key: 1 + query * key),
    "DSF-31": partial(fw.wider_layer, 1.0),
    "DSF-32": partial(fw.normalisers_cancel, lambda eta, j: eta[j]),
    "DSF-33": partial(fw.step_does_not_cancel, fw.of_attention),
    "DSF-37": partial(fw.swapped_projection, lambda u, to_key, _to_value: u @ to_key),
    "DSF-38": partial(fw.kernel_is_the_attention_matrix, heads=2),
    "DSF-39": partial(fw.keys_are_input_vectors, steps=(1.0, 0.5) * 6),
    "CDY-1": partial(cdy.blind_without_decay, (cdy.DECAYING,)),
    "CDY-2": partial(cdy.variance_of_scores, lambda width: 1 / width),
    "CDY-6": partial(cdy.key_transformations, rate=1.0),
    "CDY-9": partial(cdy.normalisation_bounds_rows, lambda weights: weights),
    "CDY-10": partial(cdy.softmax_fits, lambda scores: scores.exp().tril()),
    "EIG-1": partial(eig.spectrum_at_zero, symbolic=eig.AT_ZERO + eig.L - eig.i),
    "EIG-2": partial(eig.released_formula_is_another, normaliser=eig.defined),
    "EIG-3": partial(eig.scale_changes_the_histogram, scale=0.25),
    "EIG-4": partial(eig.bins_share_edges, count=half_open),
    "EIG-7": partial(eig.taken_at_the_output, place=lambda block: eig.normed(block.x)),
    "EIG-8": partial(eig.without_the_convolution, convolved=True),
    "EIG-9": partial(eig.before_norm_and_rotation, hooked=eig.as_attended),
    "INL-1": partial(
        inl.injective_iff_full_rank, lambda key: int(torch.linalg.matrix_rank(key)) == key.shape[-1]
    ),
    "INL-3": partial(inl.never_injective_up_to_width, lambda q, _: q + 1),
    "INL-4": partial(inl.more_features_can_be_injective, identity),
    "INL-6": partial(inl.injective_with_such_features, ((relu, identity),)),
    "INL-8": partial(inl.early_causal_rows_collide, tokens=4),
    "INL-9": partial(inl.rows_sum_to_one, lambda scores: scores),
    "INL-10": partial(inl.linear_time_form, lambda scores, value: scores.T * value),
    "INL-11": partial(inl.released_code, lambda scores: inl.released(2 * scores)),
    "INL-15": partial(inl.figure_uses_the_factors, scale=1.0),
    "INL-17": partial(inl.uniform_mass, Fraction(9, 196)),
    "INL-19": partial(inl.counted, {"InLine-DeiT-T": inl.SIZES["InLine-DeiT-T"] | {"heads": 4}}),
    "INL-23": partial(inl.readme_and_figure_differ, figure=inl.README),
    "INL-28": partial(inl.ahead_of_softmax, ours="", theirs="InLine-"),
    "INL-25": partial(inl.not_injective_with_relu, identity),
    "MLA-1": partial(mla.forms_agree, mask=lambda weights: weights.tril(-1)),
    "MLA-2": partial(mla.every_model, form=reads_before_update),
    "MLA-3": partial(mla.what_is_left, step=key_before_decay),
    "MLA-4": partial(mla.only_dynamic_decay, step=value_written_twice),
    "MLA-5": partial(mla.others_move, tied=True),
    "MLA-6": partial(mla.any_row, decay=lambda before, now: 1 - mla.share_kept(before, now)),
    "MLA-7": partial(mla.any_map, query=torch.eye(64, dtype=torch.float64).roll(1, 0)),
    "MLA-8": partial(mla.without_queries, keys=KEY_1_UP),
    "MLA-9": partial(mla.never_rises, signed=True),
    "MLA-10": partial(mla.depends_on_later_rows, third=(0.2, 0.3, 0.5)),
    "MLA-11": partial(mla.states_that_it_takes, target=torch.ones(64, 64).tril()),
    "MLA-13": partial(mla.key_bound, faded=lambda decay, lag: decay ** (lag - 1)),
    "MLA-15": partial(mla.griffin_sums, gain=lambda decay: ((1 - decay) / (1 + decay)).sqrt()),
    "MLA-16": partial(mla.parallel_form_is_not_the_layer, printed="sigmoid"),
    "MLA-18": partial(mla.scaled_query_is_seen, augmented=False),
    "MLA-19": partial(
        mla.counted, build=lambda width: dsf.layers.MetaLinearAttention(width, filter_width=None)
    ),
    "MLA-21": partial(mla.slow_decay, temperature=15),
    "MLA-24": partial(
        mla.printed_softmax,
        hide=lambda logits, reach: logits.masked_fill(reach == 0, -torch.inf),
    ),
    "MLA-25": partial(mla.printed_mask, mask=torch.tril),
    "MLA-27": partial(mla.key_does_not_help, "with key", "MetaLA"),
    "MLA-29": partial(mla.ahead_over_the_tables, ("5",)),
    "MLA-30": partial(mla.key_and_decay_suffice, signed=False),
    "MLA-31": partial(mla.additions_help, "without self-augmentation", "MetaLA"),
    "MLA-32": partial(mla.one_is_redundant, factor=2),
    "MLA-33": partial(mla.rows_are_constant, decay=0.9),
    "MLA-34": partial(
        mla.only_the_diagonal_moves,
        without=lambda mixer: replace(mixer, augmentation=None, decay=0.9 * mixer.decay),
    ),
    "MLA-35": partial(mla.comparable_on_long_range, "Mamba"),
    "MLA-36": partial(mla.ahead_on_images, "HGRN"),
    "MLA-37": partial(mla.best_on_mad, "Multihead Hyena"),
    "MLA-38": partial(mla.ahead_on_needle, "HGRN2"),
    "MLA-39": partial(mla.linear_ahead_of_softmax, "GLA"),
    "MLA-40": partial(mla.entries_are_meant, size=2),
    "MLA-41": partial(mla.as_printed, kinds=with_a_fixed_decay()),
    "MLA-42": partial(mla.delta_rule_overwrites, rate=0.9),
    "MLA-45": partial(mla.first_in_both, "LLaMA2"),
    "MLA-43": partial(mla.any_map, query=torch.eye(64, dtype=torch.float64).roll(1, 0)),
    "ZER-1": partial(zer.radial_weights_sum_to_zero, weight=zer.e / zer.E),
    "ZER-2": partial(
        zer.residuals_shrink_by_their_order,
        weigh=lambda logits, _first, _higher: zer.last_row(logits, 1.0, 1.0),
    ),
    "ZER-3": partial(zer.scan_equals_weights, weigh=from_probabilities),
    "ZER-4": partial(zer.scan_coefficients_are_right, coefficients=(a, -b, c)),
    "ZER-6": partial(zer.hull_is_strictly_inside, combination=keep),
    "ZER-7": partial(zer.deviations_are_zero_sums, combination=keep),
    "ZER-8": partial(zer.softmax_reaches_the_affine_hull, affine=(0.75, 0.25)),
    "ZER-9": partial(zer.zero_sums_reach_the_span, gates=((0.7, 0.3), (0.3, 0.7))),
    "ZER-10": partial(zer.two_logits_one_weight, first=0.7, higher=0.3),
    "ZER-11": partial(
        zer.outputs_are_bounded, size=lambda row, value: value * max(map(abs, row)) ** 2
    ),
    "ZER-13": partial(
        zer.weights_are_bounded,
        bound=lambda reach, grown, first, higher: 2 * reach * first + higher * (grown - 1),
    ),
    "ZER-14": partial(
        zer.largest_weight_shrinks_like_one_over_t,
        weigh=lambda logits, first, higher: zer.defined_row(logits, first, 4 * higher),
    ),
    "ZER-15": partial(
        zer.bounded_logits_bounded_outputs, logits_of=lambda logits: len(logits) * logits
    ),
    "ZER-16": partial(zer.output_is_lipschitz, row=lambda logits: (1e6 * logits).sin().sign() / 64),
    "ZER-17": partial(zer.angle_keeps_the_zero_sum, angle=False),
    "ZER-18": partial(zer.first_row_is_zero, weight=zer.RADIAL + zer.zero / zer.t),
    "ZER-19": partial(zer.difference_is_in_reach, first=0.5, higher=0.5),
    "ZER-21": partial(zer.paths_differ, weigh=zer.defined_row),
    "ZER-22": partial(zer.embedding_is_no_rotation, turn=zer.rotated),
    "ZER-23": partial(zer.scan_sees_later_tokens, stabiliser=lambda logits: logits[0]),
    "ZER-24": partial(
        zer.encoder_means_are_too_large,
        mean=lambda u, prior: ((prior + u.sum(dim=0)) / (1 + len(u))).expand_as(u),
    ),
    "ZER-25": partial(zer.algorithm_keeps_three_sums, states=all_states),
    "ZER-27": partial(zer.zero_sums_enlarge, first=0.5, higher=0.5),
    "ZER-28": partial(zer.hull_and_span, share=Fraction(1, 6)),
    "ZER-30": partial(zer.memory_grows_with_the_length, states=last_states),
    "ZER-32": partial(zer.gates_differ, other=torch.tanh),
    "ZER-33": partial(zer.centred_values_average_out, values=(0, 1)),
    "ZER-34": partial(zer.uniform_rows_shrink, weight=Fraction(1, 2)),
    "ZER-36": partial(zer.mask_is_multiplied, join=torch.add),
    "ZER-39": partial(zer.output_grows_with_the_logits, first=0.5, higher=0.5),
    "ZER-44": partial(zer.orders_are_not_orthogonal, orders=2),
    "ZER-45": partial(zer.rotary_cosine_is_of_the_lag, turn=zer.interleaved_and_halved),
}

HYPOTHESES = {
    "DSF-1": "(11): the read follows the update",
    "DSF-3": "(11): the recurrence runs forward",
    "DSF-5": "the kernel is e^(q.k), of infinite rank",
    "DSF-11": "the sigmoid is the reversed one",
    "DSF-16": "the additional states are not fed",
    "DSF-19": "attention is normalised",
    "DSF-29": "the factors of the monomials are those of the series",
    "DSF-30": "the kernel has no finite rank",
    "DSF-31": "the additional weights are free, and zero",
    "DSF-32": "B_j has the normaliser printed in (15b)",
    "DSF-33": "the step is in an exponent and a factor",
    "DSF-38": "one head",
    "DSF-39": "steps are equal",
    "CDY-1": "A = I",
    "CDY-2": "b = 1/√n",
    "CDY-6": "the rate of a Householder matrix is 2",
    "CDY-9": "there is a normaliser",
    "CDY-10": "the normaliser is the sum of the row",
    "INL-1": "rank [K, 1] = d + 1, and not rank K = d",
    "INL-3": "the features of the two queries are proportional",
    "INL-10": "the mean value is added back",
    "INL-17": "there is a class token",
    "INL-19": "the number of heads of the published model",
    "MLA-1": "the mask has i ≥ j",
    "MLA-2": "the read follows the update",
    "MLA-3": "the new value does not fade",
    "MLA-4": "the key is 1",
    "MLA-6": "the decay is S_{s-1}/S_s",
    "MLA-7": "the query of token t picks channel t",
    "MLA-8": "keys have both signs",
    "MLA-13": "the decay is fixed, α^(t-s)",
    "MLA-19": "the published filter is there",
    "MLA-27": "the two rows of Table 8 are not exchanged",
    "MLA-29": "both tables, not one",
    "MLA-30": "keys have both signs",
    "MLA-31": "the two rows of Table 8 are not exchanged",
    "MLA-32": "the key makes up for the decay",
    "MLA-33": "no decay",
    "MLA-34": "decays are the same",
    "MLA-35": "the model is MetaLA",
    "MLA-36": "the model is MetaLA",
    "MLA-37": "the model is MetaLA",
    "MLA-38": "the model is MetaLA",
    "MLA-39": "the linear model is MetaLA",
    "ZER-1": "the zero order is off",
    "ZER-2": "the first order is off",
    "ZER-3": "the first order is of s, not of softmax(s)",
    "ZER-4": "the coefficients as printed",
    "ZER-6": "the mean is taken off",
    "ZER-7": "the mean is taken off",
    "ZER-8": "the point is outside the convex hull",
    "ZER-9": "the gates differ",
    "ZER-11": "the length is in the bound",
    "ZER-14": "the gates are those of the bound",
    "ZER-15": "logits are bounded",
    "ZER-16": "weights change by at most L/t",
    "ZER-17": "there is a cosine",
    "ZER-19": "the gates differ",
    "ZER-25": "one state per sum, and not one per token",
    "ZER-27": "the gates differ",
    "ZER-28": "the point of the hull has weights of sum 1",
    "ZER-33": "values are centred",
    "ZER-34": "weights are 1/t",
    "ZER-45": "the embedding is a rotation",
}
"""Of every statement of a paper, which hypothesis or formula its changed case breaks."""

LAYERS: dict[str, Callable[[], Certificate]] = {
    "the decay without its temperature": lambda: mla.slow_decay(
        decay=lambda x: mla.of_the_layer(x) ** 16
    ),
    "the augmentation without its sigmoid": lambda: mla.parallel_form_is_not_the_layer("sigmoid"),
}
"""A layer of the library with one part changed, which a check about the layer notices."""
