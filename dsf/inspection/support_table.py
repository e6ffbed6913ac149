"""Which token mixers of a model are supported, and the memory of an inspection, before a run.

``support`` lists the token mixers of a model without running it; ``not_read``, after a run, those
that look like one and were not read. ``forecast`` counts the model's own forward pass, what is
recorded, the run of one layer at a time in float64, and what the rebuilt layers keep.
"""

import inspect as signatures
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch
from torch import Tensor, nn

from dsf import loading
from dsf.evaluate.memory_plan import free_memory, left_of_address_space
from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.precision import class_path, dtype_of
from dsf.inspection.capture.weights import is_within
from dsf.inspection.choice import Chosen, chosen_layers
from dsf.inspection.families.registry import Known, candidates, known_modules
from dsf.inspection.results.layers import Unsupported
from dsf.inspection.results.memory import Forecast

LOOKS_LIKE_A_MIXER = re.compile(
    r"(Attention|Mixer|DeltaNet|ShortConv|RecurrentBlock|LSTM|GRU|RNN|(LSTM|GRU|RNN)Cell|LSTMLayer"
    r"|SSM|LRU|FourierTransform|PoolFormerPooling)$"
)
THE_MODEL = "(the model itself)"
"""What stands in place of the path of the module that was given."""


def not_read(model: nn.Module, called: set[str], read: set[str]) -> list[Unsupported]:
    """Modules named like token mixers, outside of those that were read, with the reason."""
    found: list[Unsupported] = []
    for path, module in model.named_modules():
        around = any(is_within(path, one) or is_within(one, path) for one in called)
        if around or _inside(path, (other.name for other in found)):
            continue
        kind = class_path(type(module))
        if isinstance(module, torch.jit.ScriptModule):
            kind = f"TorchScript of {module.original_name}"
            reason = (
                "TorchScript takes no hooks: build the plain module (such as torch.nn.LSTM), load "
                "this one's state_dict() into it and inspect that"
            )
        elif path in read:
            reason = "it was not called on this input"
        elif not LOOKS_LIKE_A_MIXER.search(type(module).__name__):
            continue
        else:
            reason = (
                "it was not called, or no adapter reads this class and no attention was recognised "
                "in it: a softmax between one product of queries and keys and one with the values "
                "(not in blocks or by sums). If it is linear in its values, pass probe=... to read "
                "it with unit values"
            )
        found.append(Unsupported(path or THE_MODEL, kind, reason))
    return found


EXACT, WHEN_RUN, NO = "yes", "maybe", "no"
FUSED = "scaled_dot_product_attention"
SIGNS = (
    (  # behind the interface the output is turned, as attention across channels does
        r"(?s)attention_interface\((?:(?!\n    def ).)*?"
        r"\.(?:permute|transpose|swapaxes|movedim|mT)\b",
        WHEN_RUN,
        "through the attention interface, whose output it turns; only a run shows whether tokens "
        "or channels are mixed",
    ),
    ("ALL_ATTENTION_FUNCTIONS|attention_interface", EXACT, "through the attention interface"),
    (
        rf"{FUSED}|softmax\(",
        WHEN_RUN,
        "through fused attention, or its own softmax between two products; only a run shows",
    ),
)
"""In the source code of an attention module: whether it is read then, and by which way."""
PRODUCT = re.compile(r" @ |\b(?:matmul|bmm|einsum)\(")
UNKNOWN = (
    "no adapter reads this class; a run may find softmax attention in it, and probes it where it "
    "is linear in its values"
)
SCRIPTED = "", NO, "TorchScript takes no hooks: load its state_dict() into the plain module"
AS_DEFINED = "in the order in which the model defines them, "


@dataclass(frozen=True)
class Support:
    """One token mixer of a model and how it is read.

    Attributes:
        name: the path of the module.
        kind: its class.
        mixer: the class of ``dsf.mixers`` it becomes; empty where that is not known.
        exact: whether it is read: ``yes``, ``no``, or ``maybe`` where only a run shows it.
            Whatever is read is compared with the module's own output in every run.
        how: by which way it is read, or why it is not.
    """

    name: str
    kind: str
    mixer: str
    exact: str
    how: str


def support(
    model: nn.Module | str | Path,
    *,
    layers: Chosen = None,
    adapters: Sequence[Adapter] = (),
    revision: str | None = None,
    offline: bool = False,
) -> tuple[Support, ...]:
    """The token mixers of a model and what they become, without running it.

    Mixers are known by an adapter, by the names of their parameters, by the name of their class, or
    by attention in the code of their ``forward``. Whatever else mixes tokens only a run shows.

    Args:
        model: a module, which may be on the meta device; a folder with a ``config.json``; a GGUF
            file; or a hub id, of which only the configuration is downloaded.
        layers: which mixers, as ``dsf.inspect`` takes them; but numbers count in the order in
            which the model defines its modules, since nothing has run: they are not those of
            ``dsf.inspect`` where a model runs its modules in another order, or some of them twice
            or never. Names and patterns mean the same in both.
        adapters: further adapters, as for ``dsf.inspect``.
        revision, offline: the revision of a hub id, and whether to use the local cache only.

    Raises:
        LoadError: if the configuration is refused.

    >>> import torch
    >>> from dsf.inspection import support
    >>> support(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LSTM(3, 4)))
    (Support(name='1', kind='torch.nn.modules.rnn.LSTM', mixer='LSTM', exact='yes',
             how="adapter 'lstm'"),)
    """
    if not isinstance(model, nn.Module):
        model = loading.load_skeleton(model, revision=revision, offline=offline)
    found = tuple(_found(model, adapters))
    chosen = chosen_layers([each.name for each in found], layers, order=AS_DEFINED)
    return tuple(each for each in found if each.name in chosen)


def _found(model: nn.Module, adapters: Sequence[Adapter]) -> Iterator[Support]:
    known, every = known_modules(model, adapters), dict(model.named_modules())
    possible = candidates(model, known)
    scripted = {path for path, part in every.items() if isinstance(part, torch.jit.ScriptModule)}
    whole = {*known, *scripted}
    modules = {path: module for path, module in every.items() if not _inside(path, whole)}
    unknown = {path for path, part in modules.items() if path not in known and _mixes(type(part))}
    unknown |= scripted & {*modules}
    for path, module in modules.items():
        name, kind = path or THE_MODEL, class_path(type(module))
        if path in known:
            adapter, family = known[path]
            yield Support(name, kind, _mixer_of(adapter, family), EXACT, f"adapter '{family}'")
        elif path in possible:
            titles = " or ".join(dict.fromkeys(one.title for one in possible[path]))
            mixers = (_mixer_of(one.adapter, one.family) for one in possible[path])
            how = f"tried as {titles}, whose parameters it has; only a run shows"
            yield Support(name, kind, " or ".join(dict.fromkeys(mixers)), WHEN_RUN, how)
        elif path in unknown and not _inside(path, possible):
            mixer, exact, how = SCRIPTED if path in scripted else _read_as(type(module))
            wraps = any(_inside(other, (path,)) for other in (*unknown, *known))
            if exact == EXACT or not wraps:
                yield Support(name, kind, mixer, exact, how)


def _inside(path: str, others: Any) -> bool:
    return any(path.startswith(f"{other}.") if other else bool(path) for other in others)


def _mixes(cls: type[nn.Module]) -> bool:
    """Whether a class looks like a mixer by its name, or by attention in its ``forward``."""
    is_named = LOOKS_LIKE_A_MIXER.search(cls.__name__) is not None
    if is_named or cls.__module__.startswith("torch."):
        return is_named
    code = _source(cls.forward)
    called = any(f"{name}(" in code for name in ("attention_interface", FUSED))
    return called or ("softmax(" in code and len(PRODUCT.findall(code)) > 1)


@lru_cache(maxsize=64)
def asks_the_interface(classes: frozenset[type[nn.Module]]) -> bool:
    """Whether all classes that attend, by name or code, ask the library's interface."""
    return all(_read_as(cls)[1] == EXACT for cls in classes if _mixes(cls))


def _mixer_of(adapter: Adapter, family: str) -> str:
    """The return annotation of ``read``; of several classes the one named like the family."""
    hint = get_type_hints(adapter.read).get("return")
    names = [cls.__name__ for cls in get_args(hint) or (hint,) if isinstance(cls, type)]
    named = [name for name in names if name.lower().startswith(family.lower())]
    return " or ".join(named or names)


def _read_as(cls: type[nn.Module]) -> tuple[str, str, str]:
    """The mixer, whether it is read, and how, judged by the code of a class and its bases."""
    own = takewhile(lambda each: not each.__module__.startswith("torch."), cls.__mro__)
    code = "\n".join(map(_source, own))
    for pattern, exact, how in SIGNS:
        if re.search(pattern, code):
            return "SoftmaxAttention", exact, how
    return "", WHEN_RUN, UNKNOWN


@lru_cache(maxsize=256)
def _source(code: Any) -> str:
    try:
        return signatures.getsource(code)
    except (OSError, TypeError):  # of an interactive session, or not written in Python
        return ""


DOUBLE = 8
RUN = 3  # times the outputs of a module's projections: they, their activation, and a product
REBUILT = 6  # the same for a layer that is rebuilt: stages, values, response and comparison


def forecast(
    model: nn.Module,
    known: Known,
    inputs: tuple[Any, ...],
    named: Mapping[str, Any],
    *,
    wide: bool,
    memory: float | None = None,
) -> Forecast | None:
    """What an inspection on numbers of tokens or vectors ``sample time width`` takes; or None."""
    tensors = (part for part in (*inputs, *named.values()) if isinstance(part, Tensor))
    given = next((part for part in tensors if part.ndim >= 2), None)
    adapters = {model.get_submodule(path): adapter for path, (adapter, _) in known.items()}
    named_so = [part for part in model.modules() if LOOKS_LIKE_A_MIXER.search(type(part).__name__)]
    mixers = list(adapters) or named_so
    if given is None or not mixers:
        return None
    is_second = given.is_floating_point() and getattr(model, "batch_first", None) is False
    samples = max(1, given.shape[1 if is_second else 0])
    tokens = given.shape[:2].numel() if given.is_floating_point() else given.numel()
    widths = [sum(outputs for _, outputs in _matrices(each)) * tokens for each in mixers]
    decays = [getattr(each, "A_log", None) if adapters else None for each in mixers]
    # Decays of channels, sampled write vectors and driven states of all tokens, in plain torch.
    more = [0 if each is None or each.ndim < 2 else 3 * tokens * each.numel() for each in decays]

    def running(size: int) -> int:
        """The peak of a module's own forward pass, in bytes."""
        pairs = zip(widths, more, strict=True)
        return max(RUN * width * size + own * max(size, 4) for width, own in pairs)

    square = samples * (tokens // samples) ** 2 * DOUBLE
    inside = {part for module in adapters for part in module.modules()}
    softmax = (each for each in named_so if each not in inside)  # of hybrids
    maps = [
        square * _maps(each, adapters[each].axes if each in adapters else ())
        for each in (*adapters, *softmax)
    ]
    size = dtype_of(model).itemsize
    matrices = [_matrices(each) or [(0, 0)] for each in mixers]
    ends = sum((each[0][0] + each[-1][1]) * tokens for each in matrices)  # what goes in and out
    stream = int(getattr(getattr(model, "config", None), "hidden_size", 0) or 0) * tokens * size
    device = next(iter(model.parameters()), torch.empty(0)).device
    return Forecast(
        tokens=tokens,
        layers=len(mixers),
        run=running(size) + 4 * stream,
        recorded=ends * size,
        in_float64=0 if wide else running(DOUBLE),
        rebuilt=REBUILT * max(widths) * DOUBLE // 2,
        kept=(ends + sum(widths) // 2) * DOUBLE,
        available=free_memory(device) if memory is None else int(memory),
        samples=samples,
        largest_maps=max(maps),
        all_maps=sum(maps),
        has_disk=device.type in ("cpu", "meta") and left_of_address_space() is None,
    )


# What modules call the number of their heads, and the width where every channel has a map.
HEADS = ("num_v_heads", "num_heads", "num_attention_heads", "n_heads", "n_head", "heads")
CHANNELS = ("intermediate_size", "lru_width", "attention_hidden_size", "hidden_size")


def _maps(module: nn.Module, axes: tuple[str, ...]) -> int:
    """How many maps a module has for every sample, as far as its sizes tell it; else 1."""
    # An estimate: maps are refused by their true size when they are asked for.
    is_each = "channel" in axes  # a map of each channel, of all heads together
    config = getattr(module, "config", None)
    found = [getattr(module, name, None) for name in (CHANNELS if is_each else HEADS)]
    found += [getattr(config, name, None) for name in (CHANNELS[-1:] if is_each else HEADS)]
    return next((each for each in found if type(each) is int and each > 0), 1)


def _matrices(module: nn.Module) -> list[tuple[int, int]]:
    return [
        (part.in_features, part.out_features)
        for part in module.modules()
        if isinstance(part, nn.Linear)
    ] or [(part.shape[1], part.shape[0]) for part in module.parameters() if part.ndim == 2]
