"""From a blueprint and tensors to a model, in which every weight comes from the tensors."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dsf.inspection.loading.architectures import Blueprint
from dsf.inspection.loading.errors import LoadError, listed, reason, shown
from dsf.inspection.loading.versions import model_library

_MOST_GROWTH = 4
_MOST_BUFFER_BYTES = 4 * 1024**3


def build(
    plan: Blueprint, weights: dict[str, Tensor], where: str, dtype: torch.dtype | None
) -> tuple[nn.Module, list[str]]:
    """The model with these weights, in evaluation mode, and the names of weights it has no use for.

    The library is given tensors and no path, so it opens no file and contacts nobody.

    Raises:
        LoadError: the settings ask for weights that are missing or of another shape, or for far
            more numbers than there are.
    """
    _check_size(plan, weights, where)
    with undisturbed():
        try:
            model, found = plan.model.from_pretrained(
                None,
                config=plan.config,
                state_dict=weights,
                dtype="auto" if dtype is None else dtype,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
            )
        except Exception as error:  # whatever the model library makes of a stranger's tensors
            raise LoadError(f"{where}: the model cannot be built ({reason(error)}).") from None
    _check_complete(plan, found, where)
    return model.eval(), sorted(found["unexpected_keys"])


def _check_complete(plan: Blueprint, found: dict[str, Any], where: str) -> None:
    name = plan.model.__name__
    if other := sorted(found["mismatched_keys"]):
        parameter, stored, expected = other[0]
        raise LoadError(
            f"{where}: {listed([key for key, *_ in other])} of {name}: the file has shape "
            f"{tuple(stored)} for {shown(parameter)} and config.json asks for {tuple(expected)}; "
            "use the config.json that belongs to these weights."
        )
    if missing := sorted(found["missing_keys"]):
        raise LoadError(
            f"{where}: {listed(missing)} of {name} would be made up, since no weight file has "
            "them; set 'architectures' in config.json to the class that was saved, or add the "
            "missing file."
        )


def _check_size(plan: Blueprint, weights: dict[str, Tensor], where: str) -> None:
    """Raise before memory is asked for that a few bytes of settings make up."""
    with undisturbed(), torch.device("meta"):
        try:
            skeleton = plan.model(plan.config)
        except Exception as error:  # whatever a model class makes of a stranger's settings
            raise LoadError(f"{where}: the model cannot be built ({reason(error)}).") from None
    asked = sum(parameter.numel() for parameter in skeleton.parameters())
    there = sum(tensor.numel() for tensor in weights.values())
    beside = sum(buffer.nbytes for buffer in skeleton.buffers())
    if asked > _MOST_GROWTH * there or beside > _MOST_BUFFER_BYTES:
        raise LoadError(
            f"{where}: config.json asks for {asked} weights and {beside} bytes beside them, and "
            f"the files hold {there} weights; use the config.json that belongs to these weights."
        )


@contextmanager
def undisturbed() -> Iterator[None]:
    """The model library says nothing, and random numbers go on afterwards as if it had not run."""
    logging = model_library().utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
