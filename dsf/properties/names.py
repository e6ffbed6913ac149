"""The properties that are decided of every layer, by name; needs no torch."""

IF_NOT = {
    "causal": "Some tokens also read later ones, as in every encoder.",
    "nonnegative": "Some weights subtract, as linear attention, state-space models and delta rules "
    "can; softmax attention cannot.",
    "sums_to_one": "Rows are not averages; only attention with a normaliser makes them so.",
    "injective": "Two different queries share a row, so the head cannot tell them apart.",
    "margin": "The keys are close to linear dependence.",
    "nonexpansive": "Some transition makes a state longer.",
    "forgets": "The decays alone leave more than half of a state over this sequence; what else "
    "erases, as a delta rule does, is not counted.",
}
"""What a refutation of each property means; it is a fact about the layer and no failure."""
