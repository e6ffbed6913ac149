"""One thing changed in each check, after which its verdict must be another one."""

from collections.abc import Callable

import torch
from torch.nn import Identity

from dsf.certificates import Certificate
from dsf.claims.meta_linear import (
    augmentation,
    classification,
    decays,
    forms,
    overwriting,
    parameters,
    queries,
    row_sums,
    states,
    tables,
    tied_keys,
    unified_form,
)
from dsf.claims.meta_linear.printed_tables import LONG_RANGE, SUPER_GLUE
from dsf.layers import MetaLinearAttention
from dsf.mixers import HGRN2


def key_before_decay(state, decay, key, value):
    """The new value fades with the old ones."""
    return (
        overwriting.one_token(state, decay, 0 * key, value)
        + overwriting.one_token(0 * state, decay, key, value) * decay[1]
    )


def value_written_twice(state, decay, key, value):
    """Twice the new value: no decay puts the value itself in a row's place."""
    return overwriting.one_token(state, decay, 2 * key, value)


def reads_before_update(*, query, key, decay, value):
    """The unified form with a read one token early."""
    held = unified_form.unified(query=query.roll(-1, 0), key=key, decay=decay, value=value)
    return torch.cat([torch.zeros_like(held[:1]), held[:-1]])


def unfiltered(width):
    return MetaLinearAttention(width, filter_width=None)


KEY_1_UP = (("0.8", "-0.5", "0.8"), *queries.KEYS[1:])
SHORTER = [("Table 7, Mamba", (LONG_RANGE["Mamba"][0][:-1], LONG_RANGE["Mamba"][1]))]


def with_another_decay(mixer):
    """A model that is not MetaLA's recurrence."""
    return HGRN2(query=mixer.query, decay=mixer.decay.square(), value=mixer.value)


BREAKS: dict[str, Callable[[], Certificate]] = {
    "MLA-1": lambda: forms.forms_agree(mask=lambda weights: weights.tril(-1)),
    "MLA-2": lambda: unified_form.every_model(form=reads_before_update),
    "MLA-3": lambda: overwriting.what_is_left(step=key_before_decay),
    "MLA-4": lambda: overwriting.only_dynamic_decay(step=value_written_twice),
    "MLA-5": lambda: overwriting.others_move(tied=True),
    "MLA-6": lambda: tied_keys.any_row(
        decay=lambda before, now: 1 - tied_keys.share_kept(before, now)
    ),
    "MLA-7": lambda: tied_keys.any_map(query=torch.eye(64, dtype=torch.float64).roll(1, 0)),
    "MLA-8": lambda: queries.without_queries(keys=KEY_1_UP),
    "MLA-9": lambda: queries.never_rises(signed=True),
    "MLA-10": lambda: tied_keys.depends_on_later_rows(third=(0.2, 0.3, 0.5)),
    "MLA-11": lambda: states.states_that_it_takes(target=torch.ones(64, 64).tril()),
    "MLA-13": lambda: decays.key_bound(faded=lambda decay, lag: decay ** (lag - 1)),
    "MLA-14": lambda: row_sums.sums_of_rows(key=lambda decay: 1 + decay),
    "MLA-15": lambda: row_sums.griffin_sums(gain=lambda decay: ((1 - decay) / (1 + decay)).sqrt()),
    "MLA-16": lambda: augmentation.parallel_form_is_the_layer(squash=Identity()),
    "MLA-17": lambda: augmentation.zero_augmentation_is_invisible(strength=0.1),
    "MLA-18": lambda: augmentation.scaled_query_is_seen(augmented=False),
    "MLA-19": lambda: parameters.counted(build=unfiltered),
    "MLA-20": lambda: forms.product_overflows(temperature=15.0),
    "MLA-21": lambda: decays.slow_decay(temperature=15),
    "MLA-22": lambda: classification.none_existing(with_another_decay),
    "MLA-23": lambda: states.rank_of_the_state(channels=6),
    "MLA-24": lambda: forms.printed_softmax(
        hide=lambda logits, reach: logits.masked_fill(reach == 0, -torch.inf)
    ),
    "MLA-25": lambda: forms.printed_mask(mask=torch.tril),
    "MLA-26": lambda: tables.averages(rows=SHORTER),
    "MLA-27": lambda: tables.key_does_not_help(("with key", "MetaLA")),
    "MLA-29": lambda: tables.ahead_everywhere({"4": SUPER_GLUE}),
    "MLA-30": lambda: queries.key_and_decay_suffice(signed=False),
    "MLA-31": lambda: tables.additions_help(("without self-augmentation", "MetaLA")),
    "MLA-32": lambda: tied_keys.one_is_redundant(factor=2),
    "MLA-33": lambda: queries.rows_are_constant(decay=0.9),
    "MLA-34": lambda: augmentation.later_tokens_stay(written=True),
    "MLA-35": lambda: tables.comparable_on_long_range("Mamba"),
    "MLA-36": lambda: tables.ahead_on_images("HGRN"),
    "MLA-37": lambda: tables.best_on_mad("Multihead Hyena"),
    "MLA-38": lambda: tables.ahead_on_needle("HGRN2"),
    "MLA-39": lambda: tables.linear_ahead_of_softmax("GLA"),
    "MLA-40": lambda: decays.entries_are_meant(size=2),
    "MLA-41": lambda: classification.as_printed(MetaLinearAttention(8, fixed_decay=True)),
    "MLA-42": lambda: overwriting.delta_rule_overwrites(rate=0.9),
}
