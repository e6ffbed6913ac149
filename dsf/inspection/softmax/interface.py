"""Records softmax attention through the model library's attention and mask interfaces.

A recording function is registered under a name of our own, together with a mask function of that
name; without the latter a causal model would silently attend to later tokens. The recording
function calls the library's own attention and records its inputs and output. A model that runs on
fused attention keeps using it, so that its output stays the same bit for bit and no map is formed.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import cache, partial
from inspect import signature, unwrap
from threading import Lock
from typing import Any

from torch import Tensor, nn

from dsf.inspection.capture.calls import Call, Through, add_call, add_name, copied
from dsf.inspection.capture.containers import times_written
from dsf.inspection.capture.module_stack import ModuleStack
from dsf.inspection.errors import InspectionError
from dsf.inspection.softmax.attention import as_bias

EAGER = "dsf_recorded"
FUSED = "dsf_recorded_sdpa"  # the library looks for "sdpa" in the name
LIBRARY = "transformers."
EXPERTS = "_experts_implementation_internal"
SETTINGS = ("_attn_implementation_internal", EXPERTS)
OWN = ("eager_attention_forward", "simple_eager_attention_forward")
Attention = Callable[..., tuple[Tensor, Tensor | None]]


class RecordedAs(str):
    """The name of a recording function, which also equals the name of what it records.

    It is looked up by itself. Modules that ask for a name, as those with sparse attention do before
    they hide keys (``if config._attn_implementation in ("eager", "sdpa")``), go on as they would.
    """

    __slots__ = ("recorded",)
    recorded: str

    def __new__(cls, name: str, recorded: str) -> "RecordedAs":
        made = super().__new__(cls, name)
        made.recorded = recorded
        return made

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, other) is True or str.__eq__(self.recorded, other) is True

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return str.__hash__(self)

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (str(self), self.recorded)


def models_of_library(model: nn.Module) -> list[Any]:
    """The outermost modules of ``model`` that are models of transformers."""
    files = (cls.__module__ for cls in type(model).__mro__)
    if hasattr(model, "set_attn_implementation") and any(f.startswith(LIBRARY) for f in files):
        return [model]
    return [found for child in model.children() for found in models_of_library(child)]


@contextmanager
def recording_attention(model: nn.Module, where: ModuleStack, calls: list[Call]) -> Iterator[None]:
    """Append every attention call of a library model to ``calls`` inside the ``with`` block."""
    hosts = models_of_library(model)
    if not hosts:
        yield
        return
    with ExitStack() as stack:
        stack.enter_context(_registered(_Recorder(where, calls)))
        stack.enter_context(_settings_restored(model))
        for host in hosts:
            asks = getattr(host, "_can_set_attn_implementation", None)
            if asks is None or asks():  # if not, the library only warns
                _record(host)
        yield


def _record(host: Any) -> None:
    """Have the library call the recording functions: it takes their names, not what these equal.

    Fused attention stays fused if every part of the model runs it.
    """
    now = {config._attn_implementation_internal for config in _configs(host)}
    route = RecordedAs(FUSED, "sdpa") if now == {"sdpa"} else RecordedAs(EAGER, "eager")
    host.set_attn_implementation(str(route))
    for config in _configs(host):
        if config._attn_implementation_internal == str(route):
            config._attn_implementation_internal = route


@contextmanager
def recording_attention_in(
    part: nn.Module, implementation: str, where: ModuleStack, calls: list[Call]
) -> Iterator[None]:
    """The same for a part of a library model that runs alone, by the implementation it had."""
    if not implementation:
        yield
        return
    with _registered(_Recorder(where, calls)), _settings_restored(part):
        for config in _configs(part):
            config._attn_implementation_internal = implementation
        yield


@contextmanager
def plain_experts(model: nn.Module) -> Iterator[None]:
    """Run mixtures of experts without grouped kernels, which do not support float64."""
    with _settings_restored(model):
        for config in _configs(model):
            if hasattr(config, EXPERTS):
                setattr(config, EXPERTS, "eager")
        yield


@contextmanager
def _settings_restored(model: nn.Module) -> Iterator[None]:
    before = [
        (config, name, getattr(config, name))
        for config in _configs(model)
        for name in SETTINGS
        if hasattr(config, name)
    ]
    try:
        yield
    finally:
        for config, name, setting in before:
            setattr(config, name, setting)


def _configs(model: nn.Module) -> list[Any]:
    """Every configuration, sub-configurations too, that selects how attention is computed."""
    found: dict[int, Any] = {}
    waiting = [config for module in model.modules() if (config := getattr(module, "config", None))]
    while waiting:
        config = waiting.pop()
        if id(config) in found or not hasattr(config, "_attn_implementation_internal"):
            continue
        found[id(config)] = config
        parts = getattr(config, "sub_configs", None) or {}
        waiting += [part for name in parts if (part := getattr(config, name, None)) is not None]
    return list(found.values())


class _Recorder:
    """Runs the library's attention and records its calls; equal masks are converted once."""

    def __init__(self, where: ModuleStack, calls: list[Call]):
        self._where, self._calls = where, calls
        self._biases: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def eager(
        self, module: nn.Module, *tensors: Tensor | None, **options: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Run the modelling file's own attention, where no mask means that no key is masked."""
        return self._run(_own_attention(module), False, module, tensors, options)

    def fused(
        self, module: nn.Module, *tensors: Tensor | None, **options: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Run fused attention, where no mask means a causal one if the module is causal.

        Options that it ignores, such as a soft cap in some releases, are not recorded.
        """
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        asked = options.get("is_causal")
        causal = bool(getattr(module, "is_causal", True) if asked is None else asked)
        used = _named_by(sdpa_attention_forward)
        ignored = {name: part for name, part in options.items() if name not in used}
        heard = {name: part for name, part in options.items() if name in used}
        run = partial(sdpa_attention_forward, **ignored)
        if self._where.instead is not None:
            return self._told(run, module, tensors, heard)
        return self._run(run, causal, module, tensors, heard)

    def _told(
        self,
        attention: Attention,
        module: nn.Module,
        tensors: tuple[Tensor | None, ...],
        options: dict[str, Any],
    ) -> tuple[Tensor, Tensor | None]:
        """Return the replacement of an attention's output, or compute it if there is none."""
        name, (query, _, value) = self._where.name_of(module), tensors[:3]
        self._where.claim(name)
        call = Call(name, module, {"value": value}, None, 0, Through.INTERFACE)
        instead = None if self._where.instead is None else self._where.instead(call)
        if instead is None or query is None or value is None:
            return attention(module, *tensors, **options)
        samples, heads, steps, _ = query.shape
        return instead.to(query).reshape(samples, steps, heads, value.shape[-1]), None

    def _run(
        self,
        attention: Attention,
        causal: bool,
        module: nn.Module,
        tensors: tuple[Tensor | None, ...],
        options: dict[str, Any],
    ) -> tuple[Tensor, Tensor | None]:
        name = self._where.name_of(module)
        self._where.claim(name)
        output = attention(module, *tensors, **options)
        if not self._where.records(name):
            return output
        if not self._where.keeps(name):
            add_name(self._calls, module, Through.INTERFACE, self._where)
            return output
        given = dict(zip(("query", "key", "value", "attention_mask"), tensors, strict=False))
        arguments: dict[str, Any] = given | options
        for part in ("query", "key", "value"):
            arguments[part] = copied(arguments[part])
        mask = arguments.get("attention_mask")
        arguments["is_causal"] = causal and mask is None
        arguments["attention_mask"] = None if mask is None else self._bias(mask)
        place = len(self._calls)
        kind = Through.INTERFACE
        call = Call(name, module, arguments, copied(output[0]), place, kind)
        call.seen = self._where.coordinates(query=tensors[0], value=tensors[2], output=output[0])
        put_out = add_call(self._calls, call, self._where, output)
        value, mixed = arguments["value"], output[0].flatten(-2)
        self._where.pass_surroundings(module, value, mixed, partial(setattr, call, "surroundings"))
        return put_out

    def _bias(self, mask: Tensor) -> Tensor:
        """A mask as a bias. The mask is kept alive, so that no other tensor gets the same id."""
        key = id(mask), times_written(mask)
        if key not in self._biases:
            self._biases[key] = mask, as_bias(mask)
        return self._biases[key][1]


@cache
def _named_by(function: Attention) -> frozenset[str]:
    """The names of what a function takes."""
    return frozenset(signature(function).parameters)


def _own_attention(module: nn.Module) -> Attention:
    """The eager function that the forward pass of a module names, or else that of its file."""
    for cls in type(module).__mro__:
        parts = vars(sys.modules[cls.__module__])
        for name in (*_eager_names(cls), *OWN):
            if name in parts:
                return parts[name]
    raise InspectionError(
        f"{type(module).__name__}: the file that defines it has no eager_attention_forward, so its "
        "attention cannot be recorded. Build the model with attn_implementation='sdpa'."
    )


@cache
def _eager_names(cls: type) -> tuple[str, ...]:
    """The names of eager attention that the forward pass of a class holds."""
    code = getattr(unwrap(vars(cls).get("forward", cls)), "__code__", None)
    return tuple(name for name in code.co_names if name.endswith(OWN[0])) if code else ()


_RECORDER: ContextVar[_Recorder] = ContextVar("recorder")
"""Each piece of work that is done side by side with others has its own."""


def _eager(*given: Any, **options: Any) -> tuple[Tensor, Tensor | None]:
    return _RECORDER.get().eager(*given, **options)


def _fused(*given: Any, **options: Any) -> tuple[Tensor, Tensor | None]:
    return _RECORDER.get().fused(*given, **options)


_RECORDING: list[_Recorder] = []
"""Those of all pieces of work; the library knows the names of our functions while there is one."""
_LOCK = Lock()


@contextmanager
def _registered(recorder: _Recorder) -> Iterator[None]:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask, sdpa_mask

    entries = ((EAGER, _eager, eager_mask), (FUSED, _fused, sdpa_mask))
    with _LOCK:
        _RECORDING.append(recorder)
        for name, attention, mask in entries:
            AttentionInterface.register(name, attention)
            AttentionMaskInterface.register(name, mask)
    token = _RECORDER.set(recorder)
    try:
        yield
    finally:
        _RECORDER.reset(token)
        with _LOCK:
            _RECORDING.remove(recorder)
            for name, _, _ in entries if not _RECORDING else ():
                AttentionInterface._global_mapping.pop(name, None)
                AttentionMaskInterface._global_mapping.pop(name, None)
