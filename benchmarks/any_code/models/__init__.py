"""The models of the list, by what they were made for."""

from benchmarks.any_code.models import (
    audio,
    diffusion,
    language,
    library,
    pyramids,
    recurrent,
    senses,
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
    *library.MODELS,
    *senses.MODELS,
)
