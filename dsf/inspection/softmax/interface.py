"""Records softmax attention through the model library's attention interface.

Inside a block the interface hands out the attention that a module asks for with a recorder around
it, which notes what this is given and returns. The names in configurations stay as they are, since
masks and modules go by them; only what is neither plain nor fused runs as plain attention.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import partial, wraps
from inspect import signature
from typing import Any

from torch import Tensor, nn

from dsf.inspection.capture.calls import Call, Through, add_call, copied
from dsf.inspection.capture.containers import Copies, copied_once
from dsf.inspection.capture.isolation import replaced
from dsf.inspection.capture.modes import unheard
from dsf.inspection.capture.module_stack import ModuleStack
from dsf.inspection.softmax.attention import as_bias
from dsf.runtime.threads import WhileAny

EAGER, FUSED = "eager", "sdpa"
HEARD = {EAGER, FUSED, None}
LIBRARY = "transformers."
ATTENTION, EXPERTS = "_attn_implementation_internal", "_experts_implementation_internal"
Attention = Callable[..., tuple[Tensor, Tensor | None]]


def is_of_library(model: nn.Module) -> bool:
    """Whether a module is a model of transformers."""
    files = (cls.__module__ for cls in type(model).__mro__)
    return hasattr(model, "set_attn_implementation") and any(f.startswith(LIBRARY) for f in files)


@contextmanager
def recording_attention(model: nn.Module, where: ModuleStack, calls: list[Call]) -> Iterator[None]:
    """Append every attention call of models of the library, or of parts of one, to ``calls``."""
    configs = _configs(model)
    if not configs:
        yield
        return
    token = _RECORDER.set(_Recorder(where, calls))
    with _HANDED_OUT, ExitStack() as settings:
        settings.callback(_RECORDER.reset, token)
        for config in configs:
            if getattr(config, ATTENTION) not in HEARD:
                settings.enter_context(replaced(config, ATTENTION, EAGER))
        yield


@contextmanager
def plain_experts(model: nn.Module) -> Iterator[None]:
    """Run mixtures of experts without grouped kernels, which do not support float64."""
    with ExitStack() as settings:
        for config in _configs(model):
            if hasattr(config, EXPERTS):
                settings.enter_context(replaced(config, EXPERTS, "eager"))
        yield


def _configs(model: nn.Module) -> list[Any]:
    """Every configuration, sub-configurations too, that selects how attention is computed."""
    found: dict[int, Any] = {}
    waiting = [config for part in model.modules() if (config := vars(part).get("config"))]
    while waiting:
        config = waiting.pop()
        if id(config) in found or not hasattr(config, ATTENTION):
            continue
        found[id(config)] = config
        parts = getattr(config, "sub_configs", None) or {}
        waiting += [part for name in parts if (part := getattr(config, name, None)) is not None]
    return list(found.values())


class _Recorder:
    """Runs the library's attention and records its calls; equal masks are converted once."""

    def __init__(self, where: ModuleStack, calls: list[Call]):
        self._where, self._calls, self._biases = where, calls, Copies()

    def attend(
        self,
        attention: Attention,
        name: str,
        module: nn.Module,
        /,
        *tensors: Tensor | None,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        # Without a mask plain attention masks no key, and fused attention those of later tokens if
        # the module is causal. Options that fused attention ignores, such as a soft cap in some
        # releases, are not recorded.
        where, path = self._where, self._where.name_of(module)
        where.claim(path)
        heard, causal = options, False
        if name == FUSED:
            asked, used = options.get("is_causal"), signature(attention).parameters
            causal = bool(getattr(module, "is_causal", True) if asked is None else asked)
            heard = {each: part for each, part in options.items() if each in used}
        output = attention(module, *tensors, **options)
        if not where.records(where.name_of(module)):
            return output
        given = dict(zip(("query", "key", "value", "attention_mask"), tensors, strict=False))
        arguments: dict[str, Any] = {"scaling": None, **given, **heard}
        with unheard():
            for part in ("query", "key", "value"):
                arguments[part] = copied(arguments[part])
            mask = arguments.get("attention_mask")
            arguments["is_causal"] = causal and mask is None and arguments["query"].shape[-2] > 1
            if mask is not None:
                arguments["attention_mask"] = copied_once(mask, self._biases, as_bias)
            call = Call(path, module, arguments, copied(output[0]), Through.INTERFACE)
            mixed = output[0].flatten(-2)
        seen = {"query": tensors[0], "value": tensors[2], "output": output[0]}
        put_out = add_call(self._calls, call, where, output, seen)
        where.pass_surroundings(call, mixed)
        return put_out


_RECORDER: ContextVar[_Recorder] = ContextVar("recorder")
"""Each piece of work that is done side by side with others has its own."""
HANDS_OUT = ("get_interface", "__getitem__")
"""Methods of the interface by which modules ask for attention; older files use the second."""


@contextmanager
def _recorders_around() -> Iterator[None]:
    """Have the interface hand out attention with the recorder of the piece of work around it."""
    from transformers import AttentionInterface

    with ExitStack() as methods:
        for name in HANDS_OUT:
            made = _recorded(getattr(AttentionInterface, name))
            methods.enter_context(replaced(AttentionInterface, name, made))
        yield


_HANDED_OUT = WhileAny(_recorders_around)


def _recorded(hand_out: Callable[..., Attention]) -> Callable[..., Attention]:
    @wraps(hand_out)
    def handed(interface: Any, name: str, *default: Attention) -> Attention:
        found, recorder = hand_out(interface, name, *default), _RECORDER.get(None)
        if recorder is None or name not in {EAGER, FUSED}:
            return found
        is_recorded = getattr(found, "func", None) == recorder.attend
        return found if is_recorded else partial(recorder.attend, found, name)

    return handed
