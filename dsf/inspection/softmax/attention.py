"""Reads softmax attention, in one form for all ways by which a call of it is recorded.

Order of operations: scaled product of query and key, soft cap, position bias, mask, sink, softmax.

The last part records calls through the model library's attention interface. Inside a block it hands
out the attention that a module asks for with a recorder around it, which notes what this is given
and returns. The names in configurations stay as they are, since masks and modules go by them; only
what is neither plain nor fused runs as plain attention.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial, wraps
from inspect import signature
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Size, Tensor, nn

from dsf.certificates import StoredLayer
from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import Call, Captured, Through, Weights, add_call, copied
from dsf.inspection.capture.containers import Copies, copied_once
from dsf.inspection.capture.isolation import replaced
from dsf.inspection.capture.modes import unheard
from dsf.inspection.capture.module_stack import ModuleStack, Surroundings, is_transposed
from dsf.inspection.capture.precision import in_float64
from dsf.inspection.errors import InspectionError, UnreadableError
from dsf.inspection.whole.stages import Chain, Project, Scale
from dsf.mixers import SoftmaxAttention
from dsf.mixers.base import Mixer
from dsf.runtime.threads import WhileAny
from dsf.systems.composite import ExplicitMap, StoredRows


def stored_rotary_attention(module: Any, arguments: Mapping[str, Any], head: int) -> StoredLayer:
    """One head of a module whose queries and keys are rotated projections of its input."""
    query: Any = getattr(module, "q_proj", None)
    key: Any = getattr(module, "k_proj", None)
    angles = arguments.get("position_embeddings")
    plain = all(getattr(each, "bias", ...) is None for each in (query, key))
    if angles is None or not plain or any(hasattr(module, n) for n in ("q_norm", "k_norm")):
        raise InspectionError(
            f"{type(module).__name__}: a stored layer of softmax attention needs projections "
            "'q_proj' and 'k_proj' without bias and norm, and rotary positions. "
            "certify.nonnegative(layer.map()) speaks of the formed map."
        )
    shared = module.num_key_value_groups
    queries, keys = (
        each.weight.detach().unflatten(0, (-1, module.head_dim)) for each in (query, key)
    )
    cos, sin = (part[0].detach() for part in angles)
    return StoredLayer(
        "softmax_attention",
        {
            "cos": cos,
            "input": arguments["hidden_states"][0].detach(),
            "key_weight": keys[head // shared],
            "query_weight": queries[head],
            "scale": torch.tensor([module.scaling], dtype=torch.float64),
            "sin": sin,
        },
    )


# Additive masks hide a key by the lowest number of the model's dtype; that of float16 is highest.
HIDDEN = torch.finfo(torch.float16).min / 2


def as_bias(mask: Shaped[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """A mask as a float64 bias of the scores, ``-inf`` where a key is masked."""
    # A boolean mask is true where a key is not masked.
    mask = in_float64(mask)
    if mask.dtype == torch.bool:
        zero = torch.zeros(mask.shape, dtype=torch.float64, device=mask.device)
        return zero.masked_fill(~mask, -torch.inf)
    return mask.masked_fill(mask <= HIDDEN, -torch.inf)


def attention(
    query: Float[Tensor, "*batch time key"],
    key: Float[Tensor, "*batch read key"],
    value: Float[Tensor, "*batch read channel"],
    bias: Float[Tensor, "*#batch #time read"] | None,
    *,
    scale: float,
    causal: bool = False,
) -> SoftmaxAttention:
    """The mixer; a bias that only masks later keys is replaced by ``causal=True``."""
    if bias is not None and not causal and bias.shape[-2] == bias.shape[-1]:
        ahead = torch.ones(bias.shape[-2:], dtype=torch.bool, device=bias.device).triu(1)
        causal = bool(((bias == -torch.inf) | ~ahead).all())
        if causal and bool((bias.masked_fill(ahead, 0) == 0).all()):
            bias = None
    return SoftmaxAttention(
        query=query,
        key=key,
        value=value,
        scale=scale,
        bias=None if bias is None else bias.expand(*query.shape[:-1], key.shape[-2]),
        causal=causal,
    )


def causal_bias(size: tuple[int, int], device: torch.device) -> Float[Tensor, "1 1 time read"]:
    """The mask of a causal map that need not be square, aligned at the first tokens as in torch."""
    seen = torch.ones(size, dtype=torch.bool, device=device).tril()
    return as_bias(seen)[None, None]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class GivenWeights(Mixer):
    """An attention map that was recorded as such, and the values it was multiplied with."""

    weights: Float[Tensor, "*batch time read"]
    value: Float[Tensor, "*batch read channel"]

    def system(self) -> ExplicitMap:
        return ExplicitMap(StoredRows(self.weights))


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """What one attention was called with and returned, in the axes ``*batch time width``.

    Keys and values may be of fewer heads; ``bias``, which broadcasts, is added to the scores,
    ``-inf`` where a key is masked. ``weights`` are the map, where these do not explain it, and
    ``heads_last`` says whether the call itself returned ``sample time head channel``.
    """

    query: Tensor | None
    key: Tensor | None
    value: Tensor
    output: Tensor
    bias: Tensor | None = None
    weights: Tensor | None = None
    scale: float | None = None
    is_causal: bool = False
    softcap: float | None = None
    sink: Tensor | None = None
    heads_last: bool = False

    @property
    def masked(self) -> Tensor | None:
        """Queries whose keys are all masked; None where none is."""
        return None if self.bias is None else (self.bias == -torch.inf).all(dim=-1)


Route = Callable[[Captured], AttentionCall]
"""From what was recorded of a call by one way to the same form for all ways."""


def adapter_of(called: Route, **further: Any) -> Adapter:
    return Adapter(
        families={},
        read=partial(_read, called),
        finish=partial(_finish, called),
        enter=partial(_enter, called),
        leave=_leave,
        overlooked=partial(_overlooked, called),
        **further,
    )


def _read(called: Route, layer: Captured) -> SoftmaxAttention | GivenWeights:
    """The mixer; grouped heads are repeated."""
    given = called(layer)
    batch = given.output.shape[:-2]
    arranged = partial(_arranged, layer, batch)
    if given.weights is not None or given.query is None or given.key is None:
        weights = torch.as_tensor(given.weights)
        return GivenWeights(weights=arranged(weights), value=arranged(given.value))
    query = given.query.expand(*batch, *given.query.shape[-2:])
    key, value = (_repeated(part, batch) for part in (given.key, given.value))
    bias, sink = given.bias, given.sink
    if sink is not None:
        sink = in_float64(sink).reshape(-1, 1, 1).expand(*batch, 1, 1)
        sink = arranged(sink)[..., 0, 0]
    found = attention(
        arranged(query),
        arranged(key),
        arranged(value),
        None if bias is None else arranged(bias),
        scale=query.shape[-1] ** -0.5 if given.scale is None else float(given.scale),
        causal=given.is_causal and query.shape[-2] == key.shape[-2],
    )
    return replace(found, softcap=given.softcap, sink=sink)


def _repeated(part: Tensor, batch: Size) -> Tensor:
    """Keys or values of which query head h reads head ``h // (heads per group)``."""
    if part.ndim > 2 and part.shape[-3] not in (1, batch[-1]):
        part = part.repeat_interleave(batch[-1] // part.shape[-3], dim=-3)
    return part.expand(*batch, *part.shape[-2:])


def _arranged(layer: Captured, batch: Size, part: Tensor) -> Tensor:
    """A part in the axes of samples and heads, as the run showed them; else as they are usual."""
    maps = layer.maps
    if len(batch) == 2 and (maps is None or (maps.is_usual and tuple(batch) == maps.sizes)):
        return part
    part = part.expand(*batch, *part.shape[-2:])
    if maps is not None:
        return maps.arranged(part, batch)
    return part.reshape(-1, 1, *part.shape[-2:]) if len(batch) < 2 else part.flatten(0, -4)


def _finish(
    called: Route, layer: Captured, mixed: Shaped[Tensor, "*batch time output channel"]
) -> Shaped[Tensor, "*axes"]:
    """What the call returned."""
    # For a query whose keys are all masked libraries have a uniform row and our map a row of zeros.
    # Such queries are padding; their output is copied from the captured one.
    given, response = called(layer), mixed.squeeze(-2)
    if layer.maps is not None:
        response = layer.maps.restored(response)
    response = response.reshape(given.output.shape)
    if given.masked is not None:
        response = torch.where(given.masked.unsqueeze(-1), given.output, response)
    return response.transpose(1, 2) if given.heads_last else response.reshape(layer.output.shape)


def _overlooked(called: Route, layer: Captured) -> Tensor | None:
    """Tokens whose keys are all masked in some head: ``sample time``."""
    given = called(layer)
    if given.masked is None:
        return None
    masked = given.masked.expand(given.output.shape[:-1])
    return masked if masked.ndim == 2 else masked.flatten(0, -3).any(dim=1)


def _enter(called: Route, layer: Captured) -> Chain:
    """The value projection, repeated for every query head of a group."""
    found, given = _around(layer), called(layer)
    groups, _, width = given.value.shape[-3:]
    places = in_float64(found.places).unflatten(-1, (groups, width))
    places = places.repeat_interleave(given.output.shape[-3] // groups, dim=0).flatten()
    weight, bias = _linear_map(found.source)
    project = Project(weight[places], None if bias is None else bias[places])
    if found.clamped is None:
        return Chain((project,))
    low, high = found.clamped
    values = project(in_float64(found.given))
    factor = values.clamp(low, high) / torch.where(values == 0, 1, values)
    return Chain((project, Scale(factor)))


def _leave(layer: Captured, _: Tensor) -> Chain:
    found = _around(layer)
    gate = () if found.gate is None else (Scale(found.gate),)
    return Chain(gate if found.out is None else (*gate, Project(*_linear_map(found.out))))


def _around(layer: Captured) -> Surroundings:
    if layer.surroundings is None:
        raise InspectionError(
            f"{layer.name}: around this attention no linear maps were recognised as its value and "
            "output projections, so only the mixer is known. layer.map() gives its map."
        )
    return layer.surroundings


def _linear_map(module: nn.Module) -> tuple[Tensor, Tensor | None]:
    weights = Weights(module)
    weight = weights["weight"]
    return weight.mT if is_transposed(module) else weight, weights.get("bias")


def _called(layer: Captured) -> AttentionCall:
    """A call through the interface, whose mask is a bias already, or of torch's fused attention."""
    given = layer.arguments
    if given.get("dropout_p"):
        raise UnreadableError(
            "it calls fused attention with dropout, also in evaluation mode: its weights are "
            "random. Pass dropout_p=0.0 when the module is not training"
        )
    query, key, value = (given[name] for name in ("query", "key", "value"))
    if query.is_nested:
        raise UnreadableError(
            "it calls fused attention on a nested tensor. Pass a padded batch instead"
        )
    size = query.shape[-2], key.shape[-2]
    masks = (given.get(name) for name in ("attn_mask", "position_bias"))
    biases = (None if mask is None else as_bias(mask) for mask in masks)
    parts = (given.get("attention_mask"), *biases)
    there = [part[..., : size[1]] for part in parts if part is not None]
    bias: Tensor | None = sum(there[1:], start=there[0]) if there else None
    is_causal = bool(given.get("is_causal"))
    if bias is None and is_causal and size[0] != size[1]:
        bias = causal_bias(size, query.device)
    heads_last = "scaling" in given
    return AttentionCall(
        query,
        key,
        value,
        layer.output.transpose(1, 2) if heads_last else layer.output,
        bias,
        scale=given["scaling"] if heads_last else given.get("scale"),
        is_causal=is_causal,
        softcap=given.get("softcap"),
        sink=given.get("s_aux"),
        heads_last=heads_last,
    )


ADAPTER = adapter_of(_called)


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
    """The configurations of a model and its parts that select how attention is computed."""
    held = (vars(part).get("config") for part in model.modules())
    return list({id(config): config for config in held if hasattr(config, ATTENTION)}.values())


class _Recorder:
    """Runs the library's attention and records its calls; equal masks are converted once."""

    def __init__(self, where: ModuleStack, calls: list[Call]):
        self._where, self._calls, self._biases = where, calls, Copies()

    def attend(
        self,
        attention: Attention,
        name: str,
        /,
        module: nn.Module,
        *tensors: Tensor | None,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        # Without a mask plain attention masks no key, and fused attention those of later tokens if
        # the module is causal. Options that fused attention ignores, such as a soft cap in some
        # releases, are not recorded.
        where, path = self._where, self._where.name_of(module)
        used = signature(attention).parameters
        if any(options.get(each) is not None for each in used.keys() - READ):
            return attention(module, *tensors, **options)  # which is read by its operations
        where.claim(path)
        heard, causal = options, False
        if name == FUSED:
            asked = options.get("is_causal")
            causal = bool(getattr(module, "is_causal", True) if asked is None else asked)
            heard = {each: part for each, part in options.items() if each in used}
        output = attention(module, *tensors, **options)
        if not where.records(where.name_of(module)):
            return output
        given = dict(zip(TENSORS, tensors, strict=False))
        given |= {each: options[each] for each in TENSORS if each in options}
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
        seen = {"query": given["query"], "value": given["value"], "output": output[0]}
        put_out = add_call(self._calls, call, where, output, seen, time=-3)
        where.pass_surroundings(call, mixed)
        return put_out


TENSORS = ("query", "key", "value", "attention_mask")
"""What attention is given behind its module, in this order or by these names."""
READ = {*TENSORS, "module", "scaling", "dropout", "is_causal", "sliding_window"}
READ |= {"softcap", "s_aux", "position_bias"}
"""What a recorded call is read with; a function that takes more computes something else."""


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
