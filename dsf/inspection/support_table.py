"""Which token mixers of a model are supported, before a run, and which were not read, after it.

``support`` lists the token mixers of a model without running it, with the mixer of ``dsf.mixers``
that it becomes. ``not_read`` lists, after a run, the modules that look like token mixers and were
not read, with the reason. Both go by the same pattern of class names; ``support`` also knows
attention by what its ``forward`` calls.
"""

import inspect as signatures
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch
from torch import nn

from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.environment import class_path
from dsf.inspection.choice import Chosen, chosen_layers
from dsf.inspection.families.registry import candidates, known_modules
from dsf.inspection.results.layers import Unsupported

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

    Args:
        model: the model that ran.
        called: paths of the modules that an adapter reads and that were called.
        read: paths of all modules that an adapter reads.
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

    >>> import dsf, torch
    >>> dsf.support(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LSTM(3, 4)))
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
    """Whether a module sits inside one of the others."""
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
