"""One thing changed in each check, after which its verdict must be another one."""

from collections.abc import Callable
from fractions import Fraction

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
from dsf.layers import MetaLinearAttention


def key_before_decay(state, decay, key, value):
    """The new value fades with the old ones."""
    return (
        overwriting.one_token(state, decay, 0 * key, value)
        + overwriting.one_token(0 * state, decay, key, value) * decay[1]
    )


def reads_before_update(*, query, key, decay, value):
    """The unified form with a read one token early."""
    held = unified_form.unified(query=query.roll(-1, 0), key=key, decay=decay, value=value)
    return torch.cat([torch.zeros_like(held[:1]), held[:-1]])


def unfiltered(width):
    return MetaLinearAttention(width, filter_width=None)


KEY_1_UP = (("0.8", "-0.5", "0.8"), *queries.KEYS[1:])
SHORTER = {"Mamba": (tables.ROWS["Mamba, long-range arena"][0][:-1], "66.59")}

BREAKS: dict[str, Callable[[], Certificate]] = {
    "MLA-1": lambda: forms.forms_agree(mask=lambda weights: weights.tril(-1)),
    "MLA-2": lambda: unified_form.every_model(form=reads_before_update),
    "MLA-3": lambda: overwriting.what_is_left(step=key_before_decay),
    "MLA-4": lambda: overwriting.only_decay_overwrites(rate=0.9),
    "MLA-5": lambda: overwriting.others_stay(tied=True),
    "MLA-6": lambda: tied_keys.any_row(
        decay=lambda before, now: 1 - tied_keys.share_kept(before, now)
    ),
    "MLA-7": lambda: tied_keys.any_map(query=torch.eye(64, dtype=torch.float64).roll(1, 0)),
    "MLA-8": lambda: queries.without_queries(keys=KEY_1_UP),
    "MLA-9": lambda: queries.never_rises(signed=True),
    "MLA-10": lambda: tied_keys.from_tokens(third=(0.2, 0.3, 0.5)),
    "MLA-11": lambda: states.states_that_it_takes(target=torch.ones(64, 64).tril()),
    "MLA-13": lambda: decays.key_bound(faded=lambda decay, lag: decay ** (lag - 1)),
    "MLA-14": lambda: row_sums.sums_of_rows(key=lambda decay: 1 + decay),
    "MLA-15": lambda: row_sums.griffin_sums(gain=lambda decay: ((1 - decay) / (1 + decay)).sqrt()),
    "MLA-16": lambda: augmentation.augmentation_is_linear(squash=Identity()),
    "MLA-17": lambda: augmentation.zero_augmentation_is_invisible(strength=0.1),
    "MLA-18": lambda: augmentation.scaled_query_is_harmless(augmented=False),
    "MLA-19": lambda: parameters.counted(build=unfiltered),
    "MLA-20": lambda: forms.product_overflows(temperature=15.0),
    "MLA-21": lambda: decays.slow_decay(temperature=15),
    "MLA-22": lambda: classification.as_printed(MetaLinearAttention(8, fixed_decay=True)),
    "MLA-23": lambda: states.rank_of_the_state(channels=6),
    "MLA-24": lambda: forms.printed_softmax(
        hide=lambda logits, reach: logits.masked_fill(reach == 0, -torch.inf)
    ),
    "MLA-25": lambda: forms.printed_mask(mask=torch.tril),
    "MLA-26": lambda: tables.averages(rows=SHORTER),
    "MLA-27": lambda: tables.loses_across_tasks(one_task=(Fraction(59), Fraction("57.28"))),
}
