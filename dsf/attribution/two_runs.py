"""Two runs of one model, compared at every value that both compute.

A *node* is a port of a module, or in ``scopes`` the result of one torch function. The reference is
run with every node replaced by the suspect's as soon as it is computed: the difference is the
node's *own*. With the owns added to a clean reference, times a factor from 0 to 1, its output moves
to that of the suspect, so that a number changes by the sum of ``<own, mean adjoint>``.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._pytree import keystr, tree_flatten_with_path, tree_map_with_path
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakTensorKeyDictionary

from dsf.attribution.affine_steps import name_of
from dsf.inspection.capture.containers import tensors_in
from dsf.inspection.capture.modes import Functions

CASTS = {"to", "float", "half", "bfloat16", "double", "type", "type_as"}
"""Functions that change the number type; they are nodes, since they round."""
LAYOUT = {
    *("view", "reshape", "transpose", "permute", "contiguous", "flatten", "unflatten", "squeeze"),
    *("unsqueeze", "expand", "expand_as", "chunk", "split", "unbind", "narrow", "select", "clone"),
    *("getitem", "detach", "movedim", "swapaxes", "view_as", "mT", "T", "H", "mH", "tensor_split"),
    *("requires_grad", "data", "real", "imag", "numpy", "item", "set", "setitem", "copy", "fill"),
    *("pad", "repeat", "repeat_interleave", "roll", "flip", "triu", "tril"),
    *("zeros_like", "ones_like", "empty_like", "new_zeros", "new_ones", "new_empty", "grad"),
}
"""Functions whose results hold the numbers of their first argument, or of no tensor."""
BY_DATA = {"nonzero", "argwhere", "masked_select", "bincount", "where"}
"""Functions whose results have sizes that depend on numbers; of ``where`` with one argument."""
MAX_EDITS = 800
"""Maximum number of operations that one of two calls has and the other has not."""
MIN_ALIKE = 0.8
"""Minimum share of common operations for which every pair of them is trusted."""
MAX_OWN = 0.5
"""Maximum own, relative, of a pair of operations of calls that are less alike."""
MAX_GROWTH = 10.0
"""Maximum own, relative, of any operation: a root of what grows more needs many points of the way,
so that the next operation takes the change."""
MASKING = 1e30
"""Minimum magnitude of numbers that hide a key, which have no difference."""


class Node(NamedTuple):
    """A place in a run: a port (``in ...``, ``out ...``) of a module's call, or ``op number``."""

    path: str
    call: int
    port: str


@dataclass(frozen=True, eq=False)
class Operation:
    """One call of a torch function inside of a module.

    ``numel`` is for each token; ``sources`` are the nodes of its arguments, layout apart.
    """

    name: str
    numel: float
    sources: tuple[Node, ...]


Operations = dict[tuple[str, int], list[Operation]]
"""The operations of every call of a module, in their order."""
Sizes = tuple[int, int]
"""Numbers of samples and of tokens."""
Meet = Callable[[Node, Tensor], Tensor | None]
"""What is done at a node; a tensor that is returned replaces it."""


class Walk(Functions):
    """Meets the nodes of runs of a model in the order in which they are computed.

    Calls that choose tokens by their numbers, as routers do, are ``unordered``: their operations
    have an order of their own. ``producers`` and ``made_by`` have, for every port and every tensor,
    the node it is made of but for layout.
    """

    def __init__(self, model: nn.Module, scopes: Collection[str], meet: Meet):
        super().__init__()
        self._model, self._scopes = model, scopes
        self._stack: list[tuple[str, int]] = []
        self._after_hooks: list[RemovableHandle] = []
        self._calls: Counter[str] = Counter()
        self._resting = False
        self.meet = meet
        self.operations: Operations = {}
        self.producers: dict[Node, Node] = {}
        self.inputs: dict[tuple[str, int], tuple[Node, ...]] = {}
        self.start(1)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Meet the nodes of what runs inside the ``with`` block."""
        with ExitStack() as hooks:
            for path, module in self._model.named_modules():
                if isinstance(module, torch.jit.ScriptModule):
                    continue
                hook = partial(self._before, path)
                hooks.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
            hooks.enter_context(self)
            try:
                yield
            finally:  # a run that ended early leaves some
                while self._after_hooks:
                    self._after_hooks.pop().remove()

    def start(self, tokens: int) -> None:
        """Begin a further run, with so many tokens."""
        self._stack, self._calls, self.tokens = [], Counter(), tokens
        self.operations = {}
        self.unordered: set[tuple[str, int]] = set()
        self.made_by: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        for name, part in self._model.named_parameters():
            path, _, last = name.rpartition(".")
            self.made_by[part] = Node(path, 0, f"weight {last}")

    def _before(self, path: str, module: nn.Module, args: Any, kwargs: Any) -> Any:
        call = self._calls[path]
        self._calls[path] += 1
        self._stack.append((path, call))
        # Last of all hooks, so that it sees what these made of the output.
        self._after_hooks.append(module.register_forward_hook(self._after))
        changed, replaced = self._ports(path, call, "in", (args, kwargs))
        return replaced if changed else None

    def _after(self, _: nn.Module, __: Any, output: Any) -> Any:
        path, call = self._stack.pop()
        self._after_hooks.pop().remove()
        changed, replaced = self._ports(path, call, "out", output)
        return replaced if changed else None

    def _ports(self, path: str, call: int, kind: str, value: Any) -> tuple[bool, Any]:
        self._resting = True
        replaced: dict[int, Tensor] = {}
        for at, part in tree_flatten_with_path(value)[0]:
            if _has_numbers(part) and id(part) not in replaced:
                node = Node(path, call, f"{kind} {keystr(at)}")
                if part in self.made_by:
                    self.producers[node] = self.made_by[part]
                if kind == "in":
                    self.inputs[path, call] = (*self.inputs.get((path, call), ()), node)
                met = self.meet(node, part)
                replaced[id(part)] = part if met is None else met
                self.made_by[replaced[id(part)]] = node
        changed = {key for key, part in replaced.items() if id(part) != key}
        if changed:
            value = tree_map_with_path(lambda _, part: replaced.get(id(part), part), value)
        self._resting = False
        return bool(changed), value

    def hears(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        output = func(*args, **kwargs)
        if self._resting or not self._stack or self._stack[-1][0] not in self._scopes:
            return output
        self._resting = True
        try:
            return self._operation(func, args, kwargs, output)
        finally:
            self._resting = False

    def _operation(self, func: Any, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        name = name_of(func)
        given = tensors_in((args, kwargs))
        sources = tuple(self.made_by[part] for part in given if part in self.made_by)
        written = func.__name__.endswith("_") and not func.__name__.endswith("__")
        if name in BY_DATA and (name != "where" or len(args) + len(kwargs) == 1):
            self.unordered.add(self._stack[-1])
        if name in LAYOUT or written or "out" in kwargs or not isinstance(output, Tensor):
            for part in output if isinstance(output, tuple | list) else [output]:
                if isinstance(part, Tensor) and sources:
                    self.made_by[part] = sources[-1 if name in ("setitem", "copy") else 0]
            if name in ("setitem", "copy") and sources and isinstance(args[0], Tensor):
                self.made_by[args[0]] = sources[-1]
            return output
        if not _has_numbers(output) or not output.ndim:
            return output
        path, call = self._stack[-1]
        known = self.operations.setdefault((path, call), [])
        node = Node(path, call, f"op {len(known)}")
        known.append(Operation(name, output.numel() / self.tokens, sources))
        met = self.meet(node, output)
        output = output if met is None else met
        self.made_by[output] = node
        return output


def _has_numbers(part: Any) -> bool:
    return isinstance(part, Tensor) and (part.is_floating_point() or part.is_complex())


def scopes_of(model: nn.Module) -> set[str]:
    """Return the modules whose operations are nodes: those that are not layers of torch itself."""
    return {
        path
        for path, module in model.named_modules()
        if not type(module).__module__.startswith("torch.nn")
        and (list(module.children()) or list(module.parameters(recurse=False)))
    }


class Found(NamedTuple):
    """The value of a node, and the coarsest number type of the calls that it is joined of."""

    value: Tensor
    kind: torch.dtype


@dataclass(eq=False)
class Recording:
    """The nodes of a run, which may be several calls of a model; their outputs are joined.

    ``wide`` is what was cast to another number type at a node, and ``alike`` how large a share of
    the operations of a scope are those of the reference.
    """

    calls: list[dict[Node, Tensor]] = field(default_factory=list)
    wide: list[dict[Node, Tensor]] = field(default_factory=list)
    alike: dict[tuple[str, int], float] = field(default_factory=dict)
    output: Any = None

    def add(self, values: dict[Node, Tensor], operations: Operations, reference: Walk) -> None:
        """Add a call, with operations numbered as those of a reference.

        A cast that only this run has rounds the node that it was applied to.
        """
        unordered = {path for path, _ in reference.unordered}
        names = {node: node for node in values if not node.port.startswith("op")}
        uncast: dict[Node, Node] = {}
        for scope, own in operations.items():
            other = [] if scope[0] in unordered else reference.operations.get(scope, [])
            pairs = common(
                [(each.name, each.numel) for each in other],
                [(each.name, each.numel) for each in own],
            )
            share = 2 * len(pairs) / max(1, len(own) + len(other))
            self.alike[scope] = min(self.alike.get(scope, 1.0), share)
            for theirs, mine in pairs:
                node = Node(*scope, f"op {theirs}")
                names[node] = Node(*scope, f"op {mine}")
                if own[mine].name in CASTS and own[mine].sources:
                    uncast[node] = own[mine].sources[0]
            matched = {mine for _, mine in pairs}
            extra = {
                Node(*scope, f"op {mine}"): operation.sources
                for mine, operation in enumerate(own)
                if mine not in matched and operation.name in CASTS
            }
            for cast in extra:  # perhaps of what was cast before
                source = cast
                while extra.get(source):
                    source = extra[source][0]
                before, result = values.get(source), values.get(cast)
                if before is not None and result is not None and before.numel() == result.numel():
                    values[source] = before.to(result.dtype).to(before.dtype)
        inside = tuple(f"{path}." for path in unordered)
        for calls, known in ((self.calls, names), (self.wide, uncast)):
            there = ((node, own) for node, own in known.items() if own in values)
            calls.append(
                {node: values[own] for node, own in there if not node.path.startswith(inside)}
            )

    def value(
        self, node: Node, shape: torch.Size, samples: int, *, wide: bool = False
    ) -> Found | None:
        """Return what this run has at a node of the reference, perhaps before it was cast.

        None where it has none like it.
        """
        calls = self.wide if wide else self.calls
        parts = [values[node] for values in calls if node in values]
        whole = parts[0] if len(parts) == 1 else joined(parts, shape, samples)
        if whole is None or whole.shape != shape:
            return None
        return Found(whole, max((part.dtype for part in parts), key=lambda d: torch.finfo(d).eps))


def joined(parts: Sequence[Tensor], shape: torch.Size, samples: int = 1) -> Tensor | None:
    """Join parts along the axis on which they add up to ``shape``; None if there is none.

    On the first axis the tokens of every sample may follow each other.
    """
    if any(part.ndim != len(shape) for part in parts):
        return None
    for axis, size in enumerate(shape):
        rests = {(part.shape[:axis], part.shape[axis + 1 :]) for part in parts}
        is_rest = rests == {(shape[:axis], shape[axis + 1 :])}
        if is_rest and sum(part.shape[axis] for part in parts) == size:
            is_joined = axis == 0 and all(len(part) % samples == 0 for part in parts)
            apart = [part.unflatten(axis, (samples if is_joined else 1, -1)) for part in parts]
            return torch.cat(apart, dim=axis + 1).flatten(axis, axis + 1)
    return None


def common(one: Sequence[Any], other: Sequence[Any]) -> list[tuple[int, int]]:
    """Return the pairs of a longest common subsequence; of the middle none if too much differs.

    Of all beginnings with as many pairs the one that ends first is kept (Hunt and Szymanski).
    """
    start = 0
    while start < min(len(one), len(other)) and one[start] == other[start]:
        start += 1
    stop = 0
    while stop < min(len(one), len(other)) - start and one[-1 - stop] == other[-1 - stop]:
        stop += 1
    places: dict[Any, list[int]] = {}
    for at in range(len(other) - stop - 1, start - 1, -1):
        places.setdefault(other[at], []).append(at)
    ends: list[int] = []
    chains: list[tuple[int, int, Any]] = []
    for at in range(start, len(one) - stop):
        for there in places.get(one[at], ()):
            count = bisect_left(ends, there)
            ends[count : count + 1] = [there]
            chains[count : count + 1] = [(at, there, chains[count - 1] if count else None)]
    edits = len(one) + len(other) - 2 * (start + stop + len(chains))
    pairs: list[tuple[int, int]] = []
    chain = chains[-1] if chains and edits <= MAX_EDITS else None
    while chain is not None:
        at, there, chain = chain
        pairs.append((at, there))
    front = [(at, at) for at in range(start)]
    back = [(len(one) - at, len(other) - at) for at in range(stop, 0, -1)]
    return front + pairs[::-1] + back


@dataclass(frozen=True, eq=False)
class Own:
    """What a run added at a node by itself, whatever it was given there.

    ``size`` is the norm of the node's value, ``tokens`` the relative own of every token, ``gains``
    by how much every token is larger along itself, relative. ``kind`` is the number type in which
    the run has the node; ``before_cast`` is its own before the run cast it to a narrower one.
    """

    change: Tensor
    size: float
    tokens: Float[Tensor, " token"]
    gains: Float[Tensor, " token"]
    kind: torch.dtype
    before_cast: "Own | None" = None

    @property
    def relative(self) -> float:
        return float(self.change.abs().square().sum().sqrt()) / self.size if self.size else 0.0


def by_token(values: Tensor, samples: int, tokens: int) -> Float[Tensor, " token"]:
    """Sum over all axes but that of tokens: a later one, or the first, joined with samples."""
    axis = next((at for at, size in enumerate(values.shape) if at and size == tokens), None)
    is_joined = values.ndim > 0 and len(values) % (samples * tokens) == 0
    if axis is None and not is_joined:
        return values.sum().reshape(1)
    if axis is None:
        values, axis = values.unflatten(0, (samples, tokens, -1)), 1
    return values.movedim(axis, 0).flatten(1).sum(dim=1)


class Force:
    """Replaces the nodes of a reference by those of a suspect, or ``only`` some of them.

    ``owns`` are those that are not zero; ``met`` has the suspect's number type of all, and
    ``overflow`` is the first that is not finite there alone, with how often it is so at each token.
    """

    def __init__(
        self, suspect: Recording, sizes: Sizes, only: Collection[Node] | None = None
    ) -> None:
        self._suspect, self._sizes, self._only = suspect, sizes, only
        self.overflow: tuple[Node, Tensor] | None = None
        self.owns: dict[Node, Own] = {}
        self.met: dict[Node, torch.dtype] = {}

    def __call__(self, node: Node, computed: Tensor) -> Tensor | None:
        if self._only is not None and node not in self._only:
            return None
        found = self._suspect.value(node, computed.shape, self._sizes[0])
        if found is None:
            return None
        own = self._own(found, computed)
        if own is None:
            odd = ~found.value.isfinite()
            if self.overflow is None and bool(odd.any()) and bool(computed.isfinite().all()):
                self.overflow = node, by_token(odd.double(), *self._sizes)
            return None
        if not bool(own.change.any()):
            self.met[node] = found.kind
            return None
        wide = self._suspect.value(node, computed.shape, self._sizes[0], wide=True)
        if wide is not None and torch.finfo(wide.kind).eps < torch.finfo(found.kind).eps:
            before = self._own(wide, computed)
            if before is not None and bool(before.change.any()):
                own = replace(own, before_cast=before)
        if node.port.startswith("op"):
            loose = self._only is None and self._suspect.alike.get(node[:2], 0.0) < MIN_ALIKE
            if not own.relative <= (MAX_OWN if loose else MAX_GROWTH):
                return None
        self.met[node] = found.kind
        self.owns[node] = own
        return found.value.to(computed)

    def _own(self, found: Found, computed: Tensor) -> Own | None:
        """The own of a node; None for numbers that hide keys."""
        value = found.value.to(computed)
        change = value - computed
        if not bool((value.abs() < MASKING).all() & (computed.abs() < MASKING).all()):
            return None
        tokens = by_token(change.abs().square(), *self._sizes)
        sizes = by_token(computed.abs().square(), *self._sizes)
        size = float(sizes.sum().sqrt())
        sizes = torch.maximum(sizes, sizes.mean().clamp_min(torch.finfo(sizes.dtype).tiny))
        gains = by_token((change * computed.conj()).real, *self._sizes) / sizes
        return Own(change, size, (tokens / sizes).sqrt(), gains, found.kind)


Moved = dict[tuple[str, Node], Tensor]
"""How much of a change comes from the own of a node, by ``"tokens"`` or ``"heads"``."""


class Inject:
    """Adds the owns to the nodes of a reference, times a factor; keeps what they move."""

    def __init__(
        self,
        owns: Mapping[Node, Own],
        sizes: Sizes,
        factor: Tensor,
        heads_of: Callable[[Node], tuple[int, int] | None],
    ) -> None:
        self._owns, self._sizes, self._factor = owns, sizes, factor
        self._heads_of = heads_of
        self.moved: Moved = {}

    def __call__(self, node: Node, computed: Tensor) -> Tensor | None:
        own = self._owns.get(node)
        if own is None or own.change.shape != computed.shape:
            return None
        injected = computed + self._factor * own.change

        def note(adjoint: Tensor) -> None:
            product = (adjoint.conj() * own.change).real.detach()
            self.moved["tokens", node] = by_token(product, *self._sizes)
            heads = self._heads_of(node)
            by_head = None if heads is None else _by_head(product, *heads)
            if by_head is not None:
                self.moved["heads", node] = by_head

        if injected.requires_grad:  # a model may choose something without gradients
            injected.register_hook(note)
        return injected


def _by_head(values: Tensor, heads: int, width: int) -> Float[Tensor, " head"] | None:
    """Sums over all but heads, which have an axis or are joined with their channels in the last."""
    if values.shape[-1] == heads * width:
        return values.reshape(-1, heads, width).sum(dim=(0, 2))
    if values.ndim > 3 and heads in values.shape[1:-1]:
        axis = values.shape.index(heads, 1)
        return values.movedim(axis, 0).flatten(1).sum(1)
    return None
