"""Which layer and stage of a model a node of its run belongs to.

The stages inside a mixer are found by their numbers: an operation whose result is a coefficient of
the inspected mixer is where that coefficient is made, and what leads there is named after it.
"""

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import fields
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dsf.attribution.trace import call_of
from dsf.attribution.two_runs import CASTS, Node, Operation, Walk
from dsf.evaluate import respond
from dsf.inspection.errors import InspectionError
from dsf.inspection.results.layers import InspectedLayer

READING = ("query", "read", "feedthrough")
SIGNAL = ("query", "read", "key", "write", "value", "inputs")
"""Fields of mixers that are not gates."""
NO_STAGE = ("bias", "initial", "earlier", "start")
SAME_TOL = 1e-7
"""Maximum relative difference of two signatures of the same numbers."""

Place = tuple[str, str]
"""A layer and a stage."""


def signature_of(part: Tensor) -> Float[Tensor, " moment"]:
    """Return moments of the entries, which neither layout nor repeated heads change."""
    numbers = (part.detach().abs() if part.is_complex() else part.detach()).double()
    return torch.stack(
        [numbers.mean(), numbers.square().mean(), numbers.pow(3).mean(), numbers.abs().amax()]
    )


class Stages:
    """Names the layer and stage of every node, from one clean run of the reference."""

    def __init__(self, model: nn.Module, walk: Walk, layers: Sequence[InspectedLayer]):
        self._model, self._walk = model, walk
        self._modules = dict(model.named_modules())
        self._blocks = {
            f"{path}.{name}".lstrip(".")
            for path, module in self._modules.items()
            if isinstance(module, nn.ModuleList)
            for name, _ in module.named_children()
        }
        self._wanted: dict[str, dict[str, Tensor]] = {}
        for layer in layers:
            path, call = call_of(layer)
            if not call or call == "1":
                mixer: Any = layer.mixer
                known = self._wanted.setdefault(path, {})
                for each in fields(mixer):
                    part = getattr(mixer, each.name)
                    if isinstance(part, Tensor) and part.numel() > 1 and each.name not in NO_STAGE:
                        known[each.name] = signature_of(part)
                with suppress(InspectionError, ValueError, RuntimeError, TypeError):
                    known["response"] = signature_of(respond(mixer.system(), mixer.signal()))
        self._found: dict[str, dict[str, set[Node]]] = {path: {} for path in self._wanted}
        self._marked: dict[Node, set[str]] = {}
        self._leading: dict[str, tuple[set[Node], set[Node]]] = {}

    def meet(self, node: Node, value: Tensor) -> None:
        """Note what a node is made of: coefficients, response, ``rotary``, ``convolution``."""
        mixer = _innermost(node.path, self._wanted)
        marks = set[str]().union(*(self._marked.get(each, ()) for each in self._inside(node)))
        is_own = value.numel() > 1 and (node.path != mixer or not node.port.startswith("in"))
        if mixer is not None and is_own and bool((own := signature_of(value)).isfinite().all()):
            scale = own.abs().clamp_min(1e-300)
            for name, signature in self._wanted[mixer].items():
                if bool(((own - signature).abs() <= SAME_TOL * scale).all()):
                    self._found[mixer].setdefault(name, set()).add(node)
                    marks.add(name)
        if "position_emb" in node.port:
            marks.add("rotary")
        if self._is_convolution(node):
            marks.add("convolution")
        self._marked[node] = marks

    def note_weights(self) -> None:
        """Find the coefficients that are weights, such as a feedthrough."""
        for name, part in self._model.named_parameters():
            path, _, last = name.rpartition(".")
            self.meet(Node(path, 0, f"weight {last}"), part)

    def is_around(self, node: Node) -> bool:
        """Whether a node is outside of a mixer: a port of it, or of a module elsewhere."""
        if node.port.startswith("op"):
            return False
        mixer = _innermost(node.path, self._wanted)
        return mixer is None or mixer == node.path

    def layer_of(self, node: Node) -> str:
        """Return the layer to which the own of a node belongs where mixers are not looked into."""
        mixer = _innermost(node.path, self._wanted)
        return self.place(node)[0] if mixer is None else mixer

    def before(self, node: Node) -> set[Node]:
        """Return a node and all of which it was made, back to what its mixer takes."""
        found, waiting = {node}, [node]
        while waiting:
            new = {source for source in self._inside(waiting.pop()) if source not in found}
            found |= new
            waiting += new
        return found

    def _inside(self, node: Node) -> tuple[Node, ...]:
        """The sources of a node, none of what a mixer takes."""
        is_input = node.path in self._wanted and node.port.startswith("in")
        return () if is_input else self.sources(node)

    def sources(self, node: Node) -> tuple[Node, ...]:
        if node.port.startswith("op"):
            return self._operation(node).sources
        producer = self._walk.producers.get(node)
        if producer is not None:
            return (producer,)
        if node.port.startswith("out"):  # the result of a layer of torch
            return self._walk.inputs.get(node[:2], ())
        return ()

    def _operation(self, node: Node) -> Operation:
        return self._walk.operations[node[:2]][int(node.port.partition(" ")[2])]

    def is_cast(self, node: Node) -> bool:
        return node.port.startswith("op") and self._operation(node).name in CASTS

    def place(self, node: Node) -> Place:
        producer = None if node.port.startswith("op") else self._walk.producers.get(node)
        if producer is not None and not producer.port.startswith("in"):
            return self.place(producer)
        mixer = _innermost(node.path, self._wanted)
        return self._outside(node) if mixer is None else (mixer, self._stage(mixer, node))

    def _stage(self, mixer: str, node: Node) -> str:  # noqa: PLR0911 (one for each stage)
        found, module = self._found[mixer], self._modules[node.path]
        is_port = not node.port.startswith("op")
        if "position_emb" in node.port:
            return "rotary"
        if node.path != mixer:
            if is_port and self._is_convolution(node):
                return "convolution"
            if _is_norm(module):
                return "norm"
        marks = self._marked.get(node, set())
        if "response" in marks and node not in found["response"]:
            return "norm" if _is_norm(module) else "output"
        if is_port and isinstance(module, nn.Linear):
            return "projection"
        if mixer not in self._leading:  # what leads to a gate, and what to another coefficient
            self._leading[mixer] = set(), set()
            for name, nodes in found.items():
                if name != "response":
                    into = self._leading[mixer][name in SIGNAL]
                    into.update(*(self.before(each) for each in nodes))
        to_gate, to_signal = (node in nodes for nodes in self._leading[mixer])
        if to_gate and not to_signal:
            return "gates"
        if to_signal:
            ways = [way for way in ("rotary", "convolution") if way in marks]
            return ways[0] if ways else "projection"
        if not found:
            return "mixer"
        return "read-out" if marks & set(READING) else "state"

    def _is_convolution(self, node: Node) -> bool:
        if node.port.startswith("op"):
            return self._operation(node).name.startswith("conv")
        return node.port.startswith("out") and "Conv" in type(self._modules[node.path]).__name__

    def _outside(self, node: Node) -> Place:
        module = self._modules[node.path]
        if node.path in self._blocks:
            return node.path, "addition"
        block, layer = _innermost(node.path, self._blocks), node.path
        if block is not None:
            child = node.path.removeprefix(f"{block}.").partition(".")[0]
            layer = f"{block}.{child}"
        top = self._modules[layer]
        if isinstance(top, nn.Embedding):
            return layer, "embedding"
        if "rotary" in layer.lower():
            return layer, "rotary"
        if _is_norm(top):
            return layer, "norm"
        if block is not None:
            return layer, "feed-forward"
        return layer, "head" if isinstance(module, nn.Linear) else "model"


def _innermost(path: str, paths: Collection[str]) -> str | None:
    """The longest of some paths that is this one or leads to it."""
    around = [each for each in paths if path == each or path.startswith(f"{each}.")]
    return max(around, key=len, default=None)


def _is_norm(module: nn.Module) -> bool:
    weights = list(module.parameters())
    named = "norm" in type(module).__name__.lower()
    return named and all(part.ndim <= 1 for part in weights)
