"""Which classes of the model library a model's settings stand for."""

from typing import Any, NamedTuple

from dsf.inspection.loading.errors import LoadError, reason, shown
from dsf.inspection.loading.versions import model_library

_SAFE_ATTENTION = {None, "eager", "sdpa"}
_CURE = "only models that the library itself has are built, since others bring code of their own"


class Blueprint(NamedTuple):
    """A class of the model library and the settings to build it with."""

    model: Any
    config: Any


def blueprint(values: dict[str, Any], where: str) -> Blueprint:
    """The configuration object and the model class that settings name.

    Without ``architectures`` the family's plain model, without a head, is meant.

    Raises:
        LoadError: a family or class that the model library itself does not have, or settings that
            its configuration refuses.
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
    settings = {name: value for name, value in values.items() if name != "model_type"}
    try:
        config = kind(**settings)
    except Exception as error:  # whatever a configuration class makes of a stranger's values
        raise LoadError(f"{where}: {reason(error)}; correct the file.") from None
    if not _attention(config) <= _SAFE_ATTENTION:
        raise LoadError(f"{where}: selects an attention kernel by name; remove that setting.")
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
            f"{where}: {shown(name)} is no model of the family {shown(config.model_type)}; "
            "correct 'architectures' or 'model_type'."
        )
    return chosen


def _is_own(kind: Any) -> bool:
    return str(getattr(kind, "__module__", "")).startswith("transformers.models.")
