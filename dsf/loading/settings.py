"""Reads a model's ``config.json`` without settings that select code or ask for vast models.

The model library builds whatever counts the settings ask for, and loads kernels, code and files
that they name.
"""

from typing import Any, NamedTuple

from dsf.loading.errors import LoadError, shown
from dsf.loading.folder import ModelFolder, read_object

_MAX_BYTES = 4 * 1024**2
_PARTS = ("blocks", "depth", "depths", "experts", "groups", "heads", "layer", "layers", "stages")
_MAX_COUNTS = {**dict.fromkeys(_PARTS, 10_000), "labels": 100_000}
"""By the endings of their names: counts of what is made one by one, before any size is known."""
_DTYPES = {"None", "auto", "float16", "bfloat16", "float32", "float64"}
_QUANTIZED = {"quantization_config", "compression_config"}
# By these settings the model library loads kernels, code or files, or replaces attributes of its
# own classes.
_SELECT_CODE = {
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_attn_implementation_internal",
    "_auto_class",
    "_commit_hash",
    "_experts_implementation",
    "_experts_implementation_internal",
    "_name_or_path",
    "attn_implementation",
    "attribute_map",
    "auto_map",
    "custom_code",
    "custom_generate",
    "custom_pipelines",
    "device_map",
    "distributed_config",
    "experts_implementation",
    "fusion_config",
    "kernel_config",
    "name_or_path",
    "sub_configs",
    "transformers_weights",
    "trust_remote_code",
    "use_kernels",
}
# How the model library writes an infinity, which JSON does not have.
_INFINITE = {"Infinity": float("inf"), "-Infinity": float("-inf")}
_HARMLESS = {"_commit_hash", "_name_or_path", "_attn_implementation_autoset", "name_or_path"}


class Settings(NamedTuple):
    """The settings that are kept, and the names of those that were dropped."""

    values: dict[str, Any]
    dropped: list[str]


def read_settings(folder: ModelFolder, *, allow_quantized: bool) -> Settings:
    """Return the settings in a folder's ``config.json``, without those that select code."""
    path = folder.required("config.json", "pass the folder that save_pretrained wrote")
    values = read_object(path, most_bytes=_MAX_BYTES)
    return acceptable(values, str(path), allow_quantized=allow_quantized)


def acceptable(values: dict[str, Any], where: str, *, allow_quantized: bool) -> Settings:
    """Return ``values`` without those that select code; ``where`` names their file in errors."""
    dropped: set[str] = set()
    kept = _scrubbed(values, dropped, where, allow_quantized=allow_quantized)
    return Settings(kept, sorted(dropped - _HARMLESS))


def _scrubbed(value: Any, dropped: set[str], where: str, *, allow_quantized: bool) -> Any:
    if isinstance(value, list):
        return [_scrubbed(item, dropped, where, allow_quantized=allow_quantized) for item in value]
    if not isinstance(value, dict):
        return value
    if list(value) == ["__float__"] and str(value["__float__"]) in _INFINITE:
        return _INFINITE[str(value["__float__"])]
    for name, item in value.items():
        _check(name, item, where, allow_quantized=allow_quantized)
    dropped |= {name for name, item in value.items() if name in _SELECT_CODE and item is not None}
    return {
        name: _scrubbed(item, dropped, where, allow_quantized=allow_quantized)
        for name, item in value.items()
        if name not in _SELECT_CODE
    }


def _check(name: str, value: Any, where: str, *, allow_quantized: bool) -> None:
    if name in _QUANTIZED and value is not None and not allow_quantized:
        raise LoadError(
            f"{where}: {shown(name)} asks for quantised weights, whose values are rounded and "
            "whose layers are replaced; pass allow_quantized=True to accept that."
        )
    if name in ("dtype", "torch_dtype") and str(value) not in _DTYPES:
        raise LoadError(
            f"{where}: {shown(name)} is {shown(value)}, expected one of float16, bfloat16, float32 "
            "and float64; correct the file."
        )
    for ending, most in _MAX_COUNTS.items():
        if name.endswith(ending) and any(abs(count) > most for count in _counts(value)):
            raise LoadError(
                f"{where}: {shown(name)} is {shown(value)}, where at most {most} are built; "
                "correct the file."
            )


def _counts(value: Any) -> list[int]:
    if isinstance(value, list):
        return [count for item in value for count in _counts(item)]
    return [value] if isinstance(value, int) else []
