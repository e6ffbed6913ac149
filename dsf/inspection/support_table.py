"""Which token mixers of a model are supported, and the memory of an inspection, before a run.

``support`` lists the token mixers of a model without running it, with the mixer of ``dsf.mixers``
that it becomes; ``not_read``, after a run, those that look like one and were not read, with the
reason. Both go by the same pattern of class names.

``forecast`` counts the model's own forward pass, as far as the sizes of its modules and what is
known of their code tell it; what is recorded of every token mixer; the run of one layer at a time
in float64; and what the rebuilt layers keep.
"""

import inspect as signatures
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch
from torch import Tensor, nn

from dsf.evaluate.memory_plan import free_memory
from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.precision import class_path, dtype_of
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
    """Modules whose class is named like a token mixer and that were not read, with the reason.

    A module that contains one that was read, or lies inside one, is not listed. TorchScript modules
    are always listed, because they take no hooks.
    """
    found: list[Unsupported] = []
    for path, module in model.named_modules():
        if any(path.startswith(f"{other.name}.") for other in found):
            continue
        reason = _reason(module, path in read)
        if reason and not any(_related(path, other) for other in called):
            found.append(Unsupported(path or THE_MODEL, _kind(module), reason))
    return found


def _reason(module: nn.Module, known: bool) -> str | None:
    if _scripted(module):
        return (
            "TorchScript takes no hooks: build the plain module (such as torch.nn.LSTM), load this "
            "one's state_dict() into it and inspect that"
        )
    if known:
        return "it was not called on this input"
    if not LOOKS_LIKE_A_MIXER.search(type(module).__name__):
        return None
    if type(module).__name__.endswith(("FourierTransform", "PoolFormerPooling")):
        return (
            "it has no values and no weights of its own: it mixes tokens by a fixed transform or "
            "average of its input. Pass probe=... to read it with unit values"
        )
    if type(module).__name__.endswith("Attention"):
        return (
            "it was not called, or its attention was not recognised: it goes neither through the "
            "attention interface nor through torch's fused attention, and has no softmax between "
            "one product of queries and keys and one with the values (it may work in blocks or by "
            "sums). If it is linear in its values, pass probe=... to read it"
        )
    return (
        "no adapter reads this class, or it was not called. If it is linear in its values, pass "
        "probe=... to read it"
    )


def _kind(module: nn.Module) -> str:
    if isinstance(module, torch.jit.ScriptModule):
        return f"TorchScript of {module.original_name}"
    return class_path(type(module))


def _related(path: str, other: str) -> bool:
    inside = other.startswith(f"{path}.") or path.startswith(f"{other}.")
    return path == other or inside or not path or not other


EXACT, WHEN_RUN, NO = "yes", "maybe", "no"
FUSED = "scaled_dot_product_attention"
# Names in the source code of an attention module, whether it is read then, and by which way.
SIGNS = (
    (("ALL_ATTENTION_FUNCTIONS", "attention_interface"), EXACT, "through the attention interface"),
    (
        (FUSED,),
        WHEN_RUN,
        "through torch's fused attention, if it takes that path; only a run shows",
    ),
    (
        ("softmax(",),
        WHEN_RUN,
        "through its own softmax, which is read if it lies between two products; only a run shows",
    ),
)
TURNED = re.compile(
    r"attention_interface\((?:(?!\n    def ).)*?\.(?:permute|transpose|swapaxes|movedim|mT)\b",
    re.DOTALL,
)
"""Behind the attention interface its output is turned, as attention across channels does."""
MAY_BE_CHANNELS = (
    "through the attention interface, whose output it turns; only a run shows whether tokens or "
    "channels are mixed"
)
PRODUCT = re.compile(r" @ |\b(?:matmul|bmm|einsum)\(")
UNKNOWN = (
    "no adapter reads this class; a run may find softmax attention in it, and probes it where it "
    "is linear in its values"
)
AS_DEFINED = "in the order in which the model defines them, "
SCRIPTED = "TorchScript takes no hooks: load its state_dict() into the plain module"


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
        from dsf.loading import load_skeleton

        model = load_skeleton(model, revision=revision, offline=offline)
    found = tuple(_found(model, adapters))
    chosen = chosen_layers([each.name for each in found], layers, order=AS_DEFINED)
    return tuple(each for each in found if each.name in chosen)


def _found(model: nn.Module, adapters: Sequence[Adapter]) -> Iterator[Support]:
    known = known_modules(model, adapters)
    whole = {*known, *(path for path, module in model.named_modules() if _scripted(module))}
    modules = {path: module for path, module in model.named_modules() if not _inside(path, whole)}
    possible = candidates(model, known)
    unknown = {path: module for path, module in modules.items() if _looks(path, module, known)}
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
            mixer, exact, how = _read_as(module)
            wraps = any(_inside(other, (path,)) for other in (*unknown, *known))
            if exact == EXACT or not wraps:
                yield Support(name, kind, mixer, exact, how)


def _inside(path: str, others: Any) -> bool:
    return any(path.startswith(f"{other}.") if other else bool(path) for other in others)


def _looks(path: str, module: nn.Module, known: Any) -> bool:
    if path in known:
        return False
    named = LOOKS_LIKE_A_MIXER.search(type(module).__name__)
    return bool(_scripted(module) or named or _attends(type(module)))


def _scripted(module: nn.Module) -> bool:
    return isinstance(module, torch.jit.ScriptModule)


def _attends(cls: type[nn.Module]) -> bool:
    """Whether a class of no telling name computes attention in its ``forward``."""
    if cls.__module__.startswith("torch."):
        return False
    code = _source(cls.forward)
    called = any(f"{name}(" in code for name in ("attention_interface", FUSED))
    return called or ("softmax(" in code and len(PRODUCT.findall(code)) > 1)


def _mixer_of(adapter: Adapter, family: str) -> str:
    """The return annotation of ``read``; of several classes the one named like the family."""
    hint = get_type_hints(adapter.read).get("return")
    names = [cls.__name__ for cls in get_args(hint) or (hint,) if isinstance(cls, type)]
    named = [name for name in names if name.lower().startswith(family.lower())]
    return " or ".join(named or names)


def _read_as(module: nn.Module) -> tuple[str, str, str]:
    """The mixer, whether it is read, and how, judged by names in the source code of the class."""
    if _scripted(module):
        return "", NO, SCRIPTED
    code = _code(type(module))
    if TURNED.search(code):
        return "SoftmaxAttention", WHEN_RUN, MAY_BE_CHANNELS
    for words, exact, how in SIGNS:
        if any(word in code for word in words):
            return "SoftmaxAttention", exact, how
    return "", WHEN_RUN, UNKNOWN


def _code(cls: type) -> str:
    """The source code of a class and its base classes, up to the first of torch."""
    parts = []
    for each in cls.__mro__:
        if each.__module__.startswith("torch."):
            break
        parts.append(_source(each))
    return "\n".join(parts)


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
    """What an inspection of ``model`` on these inputs takes; None where its inputs have no tokens."""
    tokens = _tokens((*inputs, *named.values()))
    mixers = [model.get_submodule(path) for path in known] or list(_attentions(model))
    if tokens is None or not mixers:
        return None
    size = dtype_of(model).itemsize
    samples = _samples(model, (*inputs, *named.values()))
    square = samples * (tokens // samples) ** 2 * DOUBLE
    maps = [square * _maps(known, model, each) for each in _all_mixers(model, known)]
    running = max((_run(model, known, each, tokens, size) for each in mixers), default=0)
    double = max((_run(model, known, each, tokens, DOUBLE) for each in mixers), default=0)
    matrices = [_matrices(each) or [(0, 0)] for each in mixers]
    ends = [(each[0][0] + each[-1][1]) * tokens for each in matrices]  # what goes in and out
    widths = [_width(each) * tokens for each in mixers]
    config = getattr(model, "config", None)
    stream = int(getattr(config, "hidden_size", 0) or 0) * tokens * size
    device = next(iter(model.parameters()), torch.empty(0)).device
    return Forecast(
        tokens=tokens,
        layers=len(mixers),
        run=running + 4 * stream,
        recorded=sum(ends) * size,
        in_float64=0 if wide else double,
        rebuilt=REBUILT * max(widths) * DOUBLE // 2,
        kept=(sum(ends) + sum(widths) // 2) * DOUBLE,
        available=free_memory(device) if memory is None else int(memory),
        samples=samples,
        largest_maps=max(maps),
        all_maps=sum(maps),
    )


# What modules call the number of their heads, and the width where every channel has a map.
HEADS = ("num_v_heads", "num_heads", "num_attention_heads", "n_heads", "n_head", "heads")
CHANNELS = ("intermediate_size", "lru_width", "attention_hidden_size", "hidden_size")


def _maps(known: Known, model: nn.Module, module: nn.Module) -> int:
    """How many maps a module has for every sample, as far as its sizes tell it; 1 if they do not.

    A module that is found to keep another number is still inspected: maps are refused by their true
    size when they are asked for.
    """
    axes = next((known[path][0].axes for path in known if model.get_submodule(path) is module), ())
    if "channel" in axes:  # of all heads together
        return _first(module, CHANNELS, CHANNELS[-1:])
    return _first(module, HEADS, HEADS)


def _first(module: nn.Module, own: tuple[str, ...], of_config: tuple[str, ...]) -> int:
    """The first positive number that a module, or its configuration, has under these names."""
    config = getattr(module, "config", None)
    found = [getattr(module, name, None) for name in own]
    found += [getattr(config, name, None) for name in of_config]
    return next((each for each in found if type(each) is int and each > 0), 1)


def _samples(model: nn.Module, given: tuple[Any, ...]) -> int:
    for part in given:
        if isinstance(part, Tensor) and part.ndim >= 2:
            first = part.is_floating_point() and getattr(model, "batch_first", None) is False
            return max(1, part.shape[1 if first else 0])
    return 1


def _run(model: nn.Module, known: Known, module: nn.Module, tokens: int, size: int) -> int:
    """The peak of a module's own forward pass, in bytes."""
    more = sum(
        known[path][0].run_numbers(module, tokens)
        for path in known
        if model.get_submodule(path) is module
    )
    return RUN * _width(module) * tokens * size + more * max(size, 4)


def _tokens(given: tuple[Any, ...]) -> int | None:
    """The tokens of all samples: of token numbers, or of vectors ``sample time width``."""
    for part in given:
        if isinstance(part, Tensor) and part.ndim >= 2:
            return part.numel() if not part.is_floating_point() else part.shape[:2].numel()
    return None


def _attentions(model: nn.Module) -> Iterator[nn.Module]:
    for module in model.modules():
        if LOOKS_LIKE_A_MIXER.search(type(module).__name__):
            yield module


def _all_mixers(model: nn.Module, known: Known) -> list[nn.Module]:
    """The modules that adapters read, and the softmax layers of hybrids."""
    inside = {part for path in known for part in model.get_submodule(path).modules()}
    found = [model.get_submodule(path) for path in known]
    return [*found, *(each for each in _attentions(model) if each not in inside)]


def _matrices(module: nn.Module) -> list[tuple[int, int]]:
    return [
        (part.in_features, part.out_features)
        for part in module.modules()
        if isinstance(part, nn.Linear)
    ] or [(part.shape[1], part.shape[0]) for part in module.parameters() if part.ndim == 2]


def _width(module: nn.Module) -> int:
    return sum(outputs for _, outputs in _matrices(module))
