"""The models of the list, by what they were made for."""

from benchmarks.any_code.models import (
    audio,
    diffusion,
    graphs,
    language,
    library,
    molecules,
    pyramids,
    recurrent,
    senses,
    sequences,
    sets,
    vision,
)

MODELS = (
    *language.MODELS,
    *recurrent.MODELS,
    *sets.MODELS,
    *vision.MODELS,
    *pyramids.MODELS,
    *diffusion.MODELS,
    *audio.MODELS,
    *graphs.MODELS,
    *library.MODELS,
    *molecules.MODELS,
    *senses.MODELS,
    *sequences.MODELS,
)
