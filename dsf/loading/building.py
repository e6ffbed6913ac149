"""Reads weight files and builds models from them, with the libraries that wrote them.

safetensors runs no code and holds shapes against the bytes that are there.

``blueprint`` finds the class of the model library that settings name, ``build`` makes the model,
``skeleton`` its modules without weights. The library draws missing weights at random, drops those
without a place, and allocates whatever the settings ask for: each is an error here.
"""

import copy
import hashlib
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

from dsf.loading.errors import LoadError, listed, model_library, reason, shown
from dsf.loading.folder import opened_safetensors

_NUMBERS = {
    torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64,
    torch.int8, torch.int16, torch.int32, torch.int64,
    torch.float8_e4m3fn, torch.float8_e5m2, torch.float16, torch.bfloat16,
    torch.float32, torch.float64, torch.complex64, torch.complex128,
}  # fmt: skip


def read_weights(files: list[Path], *, mapped: bool = False) -> dict[str, Tensor]:
    """Return the tensors of all files together, by name; copies, unless they are ``mapped``.

    A tensor on the mapped file would change with the file, or end the process.
    """
    weights: dict[str, Tensor] = {}
    for path in files:
        with opened_safetensors(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        for name, tensor in tensors.items():
            if tensor.dtype not in _NUMBERS:
                raise LoadError(
                    f"{path}:{shown(name)}: expected plain numbers, got {tensor.dtype}; save the "
                    "model in another number type."
                )
            if name in weights:
                raise LoadError(
                    f"{path}: {shown(name)} is also in another file; remove one of them."
                )
            weights[name] = tensor if mapped else tensor.clone()
    return weights


def fingerprint(files: list[Path]) -> str:
    """Return the SHA-256, in hexadecimal, of the names and contents of ``files``."""
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{content}  {path.name}\n".encode())
    return total.hexdigest()


_SAFE_ATTENTION = {None, "eager", "sdpa"}
_NONE = torch.empty(0)
_CURE = "only the library's own models are built, since others need code of the checkpoint"


class Blueprint(NamedTuple):
    """A class of the model library and the settings to build it with."""

    model: Any
    config: Any


def blueprint(values: dict[str, Any], where: str) -> Blueprint:
    """Return the configuration object and the model class that settings name.

    Without ``architectures`` it is the base model of the family, without a head.
    """
    transformers = model_library()
    family = values.get("model_type")
    kinds = transformers.models.auto.configuration_auto.CONFIG_MAPPING
    if not isinstance(family, str) or family not in kinds or not _is_own(kinds[family]):
        raise LoadError(
            f"{where}: transformers {transformers.__version__} has no family {shown(family)}; "
            f"{_CURE}."
        )
    config = _config(kinds[family], values, where)
    return Blueprint(_model_class(transformers, values.get("architectures"), config, where), config)


def _config(kind: Any, values: dict[str, Any], where: str) -> Any:
    # A copy, since a configuration may change what it is given.
    settings = copy.deepcopy({k: v for k, v in values.items() if k != "model_type"})
    with guarded(where, "{}; correct the file."):
        config = kind(**settings)
    if not _attention(config) <= _SAFE_ATTENTION:
        raise LoadError(
            f"{where}: a setting selects an attention kernel by name; remove that setting."
        )
    return config


def _attention(config: Any) -> set[Any]:
    parts = [getattr(config, name, None) for name in getattr(config, "sub_configs", {})]
    below = [_attention(part) for part in parts if hasattr(part, "_attn_implementation")]
    return {config._attn_implementation}.union(*below)


def _model_class(transformers: Any, names: Any, config: Any, where: str) -> Any:
    if not names:
        mapping = transformers.models.auto.modeling_auto.MODEL_MAPPING
        chosen = mapping.get(type(config), None)
        name = config.model_type
    else:
        name = names[0] if isinstance(names, list) else names
        chosen = getattr(transformers, name, None) if isinstance(name, str) else None
    is_model = isinstance(chosen, type) and issubclass(chosen, transformers.PreTrainedModel)
    if not is_model or not _is_own(chosen):
        raise LoadError(
            f"{where}: transformers {transformers.__version__} has no model {shown(name)}; {_CURE}."
        )
    if not issubclass(type(config), chosen.config_class or ()):
        raise LoadError(
            f"{where}: {shown(name)} is not a model of the family {shown(config.model_type)}; "
            "correct 'architectures' or 'model_type'."
        )
    return chosen


def _is_own(kind: Any) -> bool:
    return str(getattr(kind, "__module__", "")).startswith("transformers.models.")


def build(
    plan: Blueprint, weights: dict[str, Tensor], where: str, dtype: torch.dtype | None
) -> tuple[nn.Module, list[str], list[str]]:
    """Return the model, the names of weights that it does not use, and notes on shared ones.

    The library gets tensors and no path, so that it opens no file and uses no network.
    """
    empty = _checked_skeleton(plan, weights, where)
    _check_names(empty, plan.model.base_model_prefix, weights, where)
    with guarded(where, _NOT_BUILT):
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
    _check_complete(plan, found, where)
    unused = sorted(found["unexpected_keys"])
    _check_unused(model, plan.config, {name: weights.get(name, _NONE) for name in unused}, where)
    if not hasattr(plan.config, "quantization_config"):
        _check_kinds(empty, {k: v for k, v in weights.items() if k not in set(unused)}, where)
    return model.eval(), unused, _shared(model, weights)


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
            f"{where}: {listed(missing)} of {name} would be drawn at random, since no weight file "
            "has them; set 'architectures' in config.json to the class that was saved, or add the "
            "missing file."
        )


def _check_names(empty: nn.Module, prefix: str, weights: dict[str, Tensor], where: str) -> None:
    """Raise if a weight is stored twice, with and without the name of the base model."""
    own = empty.state_dict()
    for name in weights:
        longer = f"{prefix}.{name}"
        if longer in weights and not {name, longer} <= own.keys():
            raise LoadError(
                f"{where}: {shown(name)} and {shown(longer)} are one weight of the model, but "
                "the files have both; remove one of them."
            )


def _check_kinds(empty: nn.Module, used: dict[str, Tensor], where: str) -> None:
    """Raise if integers or complex numbers are stored for floating point weights."""
    whole = [name for name, buffer in empty.named_buffers() if not buffer.is_floating_point()]
    for name, tensor in used.items():
        if tensor.is_floating_point() or is_causal_mask(tensor):
            continue
        if any(_ends_alike(name, other) for other in whole):
            continue
        raise LoadError(
            f"{where}: {shown(name)} is stored as {str(tensor.dtype).removeprefix('torch.')}, and "
            "the model has floating point weights there, so the numbers would not be those that "
            "were trained; save the weights again."
        )


def _ends_alike(name: str, other: str) -> bool:
    return f".{name}".endswith(f".{other}") or f".{other}".endswith(f".{name}")


def input_embeddings(model: Any) -> nn.Module | None:
    """The table of embeddings of a model of the library; None where it has none."""
    try:
        found: nn.Module | None = getattr(model, "get_input_embeddings", lambda: None)()
    except NotImplementedError:
        return None
    return found


def _shared(model: nn.Module, weights: dict[str, Tensor]) -> list[str]:
    """Input embeddings that no file has and that are the output's, in words."""
    table = getattr(input_embeddings(model), "weight", None)
    same = [name for name, each in model.named_parameters(remove_duplicate=False) if each is table]
    there = [name for name in same if any(_ends_alike(name, other) for other in weights)]
    if len(same) < 2 or not there or same[0] in there:
        return []
    return [f"{same[0]} is in no file; its numbers are those of {there[0]}, to which it is tied."]


_MAX_GROWTH = 4
_MAX_BUFFER_BYTES = 1024**3
_MODULES_A_TENSOR = 64
_MAX_MODULES = 200_000  # where no weights say how many there are


def _checked_skeleton(plan: Blueprint, weights: dict[str, Tensor], where: str) -> nn.Module:
    """Return the modules without weights, if settings do not ask for far more than the files hold.

    Nothing of the size that the settings ask for is allocated before.
    """
    most = min(_MAX_MODULES, 1_000 + _MODULES_A_TENSOR * len(weights))
    numbers = sum(weight.numel() for weight in weights.values())
    size = sum(weight.nbytes for weight in weights.values())
    empty = skeleton(plan, where, most_modules=most)
    asked = sum(parameter.numel() for parameter in empty.parameters())
    buffer_bytes = sum(buffer.nbytes for buffer in empty.buffers())
    if asked > _MAX_GROWTH * numbers or buffer_bytes > _MAX_BUFFER_BYTES + 4 * size:
        raise LoadError(
            f"{where}: config.json asks for {asked} weights and {buffer_bytes} bytes of buffers, "
            f"but the files hold {numbers} weights; use the config.json that belongs to these "
            "weights."
        )
    return empty


def skeleton(plan: Blueprint, where: str, *, most_modules: int = _MAX_MODULES) -> nn.Module:
    """Return the modules of a model on the meta device, without weights, in evaluation mode."""
    with guarded(where, _NOT_BUILT), torch.device("meta"), _counted(most_modules, where):
        model: nn.Module = plan.model(plan.config)
    return model.eval()


@contextmanager
def _counted(most: int, where: str) -> Iterator[None]:
    """Stop a model that is being built in this thread at its module number ``most``."""
    count, here = 0, threading.get_ident()

    def one_more(*_: Any) -> None:
        nonlocal count
        if threading.get_ident() != here:
            return
        count += 1
        if count > most:
            raise LoadError(
                f"{where}: the settings ask for more than {most} modules, far more than the "
                "weights are for; use the config.json that belongs to these weights."
            )

    with register_module_module_registration_hook(one_more):
        yield


@contextmanager
def undisturbed() -> Iterator[None]:
    """Silence the model library and restore torch's random state after the ``with`` block."""
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


_NOT_BUILT = "the model cannot be built ({})."


@contextmanager
def guarded(where: object, words: str) -> Iterator[None]:
    """Silence the model library, and word its errors: it may raise anything on untrusted files."""
    with undisturbed():
        try:
            yield
        except LoadError:
            raise
        except Exception as error:
            raise LoadError(f"{where}: {words.format(reason(error))}") from None


_COMPUTED = {"inv_freq", "original_inv_freq", "masked_bias", "position_ids", "version"}
"""Numbers that models once saved and that are computed today."""
_ON_PURPOSE = (
    "To look at a part of a model on purpose, build it with transformers and pass the module."
)


def _check_unused(model: nn.Module, config: Any, unused: dict[str, Tensor], where: str) -> None:
    """Raise if a weight without a place belongs to a part that the model has."""
    further: dict[str, tuple[int, int]] = {}
    extra = []
    for name, tensor in unused.items():
        path, module, rest = _reached(model, name)
        if not path:
            continue
        if isinstance(module, nn.ModuleList) and rest[0].isascii() and rest[0].isdecimal():
            if int(rest[0]) >= len(module) + _predicting_ahead(config):
                _, most = further.get(path, (0, 0))
                further[path] = len(module), max(most, int(rest[0]) + 1)
        elif not _is_computed(module, rest, tensor):
            extra.append(name)
    for path, (held, count) in further.items():
        raise LoadError(
            f"{where}: config.json asks for {held} entries of {path}, but the files hold weights "
            f"of {count}, so that the model would be cut short; use the config.json that belongs "
            f"to these weights. {_ON_PURPOSE}"
        )
    if extra:
        raise LoadError(
            f"{where}: {listed(extra)}: {type(model).__name__} with these settings does not use "
            "such weights, so it would compute something else than the model that was saved; use "
            f"the config.json that belongs to these weights. {_ON_PURPOSE}"
        )


def _reached(model: nn.Module, name: str) -> tuple[str, nn.Module, list[str]]:
    """The innermost module on the way to a weight, and the rest of the way.

    The path is empty where the model, with its base model, lacks the whole part. Names may stand
    with the name of the base model in front or without it.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    prefix, parts = getattr(model, "base_model_prefix", ""), name.split(".")
    ways = parts, parts[1:] if parts[0] == prefix else [prefix, *parts]
    splits = [(".".join(way[:k]), way[k:]) for way in ways for k in range(1, len(way))]
    reached = [split for split in splits if split[0] in modules and split[0] != prefix]
    path, rest = max(reached, key=lambda split: len(split[0]), default=("", parts))
    return path, modules[path], rest


def _predicting_ahead(config: Any) -> int:
    """Layers behind the last that only predict further tokens ahead, which no class here has."""
    inner = config.get_text_config() if hasattr(config, "get_text_config") else config
    count = getattr(inner, "num_nextn_predict_layers", 0)
    return count if isinstance(count, int) else 0


def _is_computed(module: nn.Module, rest: list[str], tensor: Tensor) -> bool:
    """Whether the numbers are a mask, places or frequencies, and no trained weights."""
    if rest[-1] in _COMPUTED or not tensor.is_floating_point():
        return True
    if len(rest) == 1 and rest[0] in module._non_persistent_buffers_set:
        return True
    return is_causal_mask(tensor)


def is_causal_mask(tensor: Tensor) -> bool:
    """Return whether a tensor is one at and below the diagonal, and zero above."""
    square = tensor.ndim >= 2 and tensor.shape[-1] == tensor.shape[-2] > 1
    return square and bool(torch.equal(tensor, torch.ones_like(tensor).tril()))
