"""The stored weights and the input behind the map of a layer, for certificates of level real.

``inspect_piecewise``: inspects a model larger than the memory, one block at a time.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dsf.certificates import StoredLayer
from dsf.evaluate.memory_plan import GB, free_memory
from dsf.inspection.capture.calls import bound
from dsf.inspection.capture.precision import dtype_of
from dsf.inspection.capture.weights import check_open_weights
from dsf.inspection.choice import Chosen, ChosenAlong
from dsf.inspection.entry import inspect, known_checks
from dsf.inspection.errors import (
    InspectionError,
    InspectionMemoryError,
    NothingCapturedError,
    ReconstructionError,
)
from dsf.inspection.examine import Examination, examine_part, not_reproduced
from dsf.inspection.families.registry import known_modules
from dsf.inspection.recorded_run import without_cache
from dsf.inspection.results.layers import InspectedLayer, Unsupported
from dsf.inspection.results.table import Record, Table
from dsf.inspection.softmax.attention import stored_rotary_attention
from dsf.inspection.support_table import forecast
from dsf.loading.loader import PiecewiseModel


def stored_layer(
    model: nn.Module, name: str, *inputs: Any, head: int = 0, **named: Any
) -> StoredLayer:
    """What the map of one head, or of one channel, of a layer is made of in this run.

    The weights are those of the model; the input is what the module was given (for softmax
    attention with rotary positions also their cosines and sines), in the number type of the run.
    The map of the result is compared with that of the inspected layer.

    Args:
        model: a torch module.
        name: the path of the layer in the model, as an inspection names it.
        inputs, named: what the model is called with, for one sample without padding.
        head: which head, or channel where the layer has those.

    Raises:
        KeyError: if the inspection has no layer of that name.
        InspectionError: if the layer is not a kind that a certificate can hold.
        ReconstructionError: if the map of the result is another one than that of the layer.

    >>> import dsf, torch
    >>> from dsf.inspection import stored_layer
    >>> from dsf.models import folder
    >>> from transformers import AutoModelForCausalLM
    >>> model = AutoModelForCausalLM.from_pretrained(folder("llama"))
    >>> tokens = torch.arange(6)[None]
    >>> layer = stored_layer(model, "model.layers.0.self_attn", input_ids=tokens)
    >>> dsf.certify.nonnegative(layer).verdict.value
    'PROVED'
    """
    module = model.get_submodule(name)
    seen: list[dict[str, Any]] = []

    def remember(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        seen.append(bound(module.forward, args, named))

    hook = module.register_forward_pre_hook(remember, with_kwargs=True)
    try:
        with torch.no_grad():
            model(*inputs, **named)
    finally:
        hook.remove()
    found = inspect(model, *inputs, layers=name, checks="none", **named)[name]
    known, hidden = known_modules(model), seen[0].get("hidden_states")
    if not isinstance(hidden, Tensor) or hidden.ndim != 3 or hidden.shape[0] != 1:
        raise InspectionError(
            f"{name}: a stored layer needs one sample of hidden states with the axes 'sample time "
            "model'. Give the model one sample."
        )
    read = known[name][0].stored if name in known else stored_rotary_attention
    if read is None:
        raise InspectionError(
            f"{name}: no certificate from stored weights is offered for the family "
            f"'{known[name][1]}'. certify.nonnegative(layer.map()) speaks of the formed map."
        )
    stored = read(module, seen[0], head)
    # The map of the layer was rebuilt in float64, from queries in the number type of the run.
    map = found.map().flatten(0, -3)[head].cpu()
    apart = float((stored.map() - map).abs().max() / map.abs().max())
    if not apart <= 64 * torch.finfo(stored.parts["input"].dtype).eps:
        raise ReconstructionError(
            f"{name}: the map of the stored weights and that of the inspected layer differ by "
            f"{apart:.1e}, so the layer does more than its stored kind, {stored.kind}, says."
        )
    return stored


Visit = Callable[[Sequence[InspectedLayer], Sequence[Unsupported]], None]
Look = Callable[[str, tuple[Any, ...], dict[str, Any]], None]


@torch.inference_mode(False)
def inspect_piecewise(  # noqa: PLR0913  # the options of inspect that hold block by block
    piecewise: PiecewiseModel,
    visit: Visit,
    *,
    tolerance: float | None = None,
    strict: bool = False,
    layers: Chosen = None,
    heads: Chosen = None,
    memory: float | None = None,
    keeps: bool = False,
    checks: str = "all",
    **named: Any,
) -> Table:
    """Run the body of a model once and pass the layers of every block to ``visit``.

    The weights of a block are in memory only while it runs. Every layer is compared with its
    captured output, as in ``inspect``. A layer that is kept after its visit holds its
    coefficients, not its weights.

    Args:
        piecewise: a model as ``dsf.loading.open_piecewise`` gives it.
        visit: called once for every block, in the order in which they run.
        tolerance, strict, heads: as for ``dsf.inspect``.
        layers: the same, where numbers and slices count from the first layer; the others are
            neither rebuilt nor passed on.
        memory: how many bytes it may take; by default what this process may still take.
        keeps: whether ``visit`` keeps the layers, so that all of them have to fit together.
        checks: as for ``dsf.inspect``, each block by itself: what mixes tokens outside of the
            blocks, or in a block through what another one made, is not asked. ``"all"`` repeats
            single modules of the block that is in memory, with its inputs alone; ``"none"`` leaves
            it out.
        named: what the model is called with, such as ``input_ids=...``.

    Returns:
        What the run was asked about the modules of every block in which tokens meet, and what it
        answered, as ``Inspection.checks`` has it; without records if it was not asked.

    Raises:
        LoadError: if a weight is missing.
        InspectionMemoryError: if it would take more memory than there is; known before the run.
        InspectionError: if the model cannot be run on these inputs, has no list of blocks, or has
            no such layer; the last is raised once all blocks have run.
        NonFiniteWeightsError: if a weight is NaN or infinite.
        ReconstructionError: if a rebuilt layer does not reproduce its output.
        NothingCapturedError: if no layer could be read.
        ValueError: if ``checks`` is neither ``"all"`` nor ``"none"``.
    """
    if not piecewise.blocks:
        raise InspectionError(
            f"{type(piecewise.model).__name__} has no list of blocks, so it cannot be run block by "
            "block. Load the whole model and use dsf.inspect."
        )
    model, seen = piecewise.model, 0
    asked: list[Record] = []
    refused: list[Unsupported] = []
    chosen = None if layers is None else ChosenAlong(layers)
    question = Examination(
        tolerance=tolerance,
        strict=strict,
        layers=None if chosen is None else chosen.of_block,
        heads=heads,
        checks=known_checks(checks),
    )
    check_memory(piecewise, named, memory=memory, keeps=keeps and layers is None)

    def look(path: str, inputs: tuple[Any, ...], given: dict[str, Any]) -> None:
        nonlocal seen
        found, missed, answers = examine_part(model, path, inputs, given, question=question)
        asked.extend(answers)
        refused.extend(missed)
        seen += len(found)
        visit(found, missed)

    body = model.get_submodule(piecewise.body)
    with torch.no_grad(), ExitStack() as stack:
        stack.enter_context(piecewise.opened_around())
        check_open_weights(model)
        for path in piecewise.blocks:
            stack.enter_context(_opening(piecewise, path, look))
        body(**without_cache(body, named))
    if chosen is not None:
        chosen.check()
    if not seen:
        words = "; ".join(part.reason for part in refused)
        because = f" Modules that look like token mixers but could not be read: {words}."
        raise not_reproduced(refused) or NothingCapturedError(
            f"{type(model).__name__}: no token mixer could be read.{because if words else ''}"
        )
    return Table(tuple(asked))


def check_memory(
    piecewise: PiecewiseModel, named: dict[str, Any], *, memory: float | None, keeps: bool
) -> None:
    """Raise where the weights of one block, its run and its layers do not fit together."""
    model = piecewise.model
    found = free_memory(torch.device("cpu")) if memory is None else memory
    there = None if found is None else float(found)
    wide = dtype_of(model) is torch.float64
    expected = forecast(model, known_modules(model), (), named, wide=wide, memory=there)
    if expected is None or there is None:
        return
    body, *blocks = (
        sum(part.numel() * part.itemsize for part in model.get_submodule(path).parameters())
        for path in (piecewise.body, *piecewise.blocks)
    )
    weights, one = body - sum(blocks) + max(blocks), expected.peak_on_disk
    kept = expected.kept if keeps else 0
    if weights + one + kept <= there:
        return
    more = f", what all layers keep {kept / GB:.1f} GB" if keeps else ""
    fewer = "fewer layers (layers=..., on the command line --layers), " if keeps else ""
    raise InspectionMemoryError(
        f"{type(model).__name__}: inspecting it block by block on {expected.tokens} tokens takes "
        f"{(weights + one + kept) / GB:.1f} GB at its peak, but {there / GB:.1f} GB are available. "
        f"The weights of one block and of what lies around all of them take {weights / GB:.1f} GB, "
        f"one layer with its run {one / GB:.1f} GB{more}. Give fewer tokens, {fewer}or more memory "
        "(memory=..., on the command line --memory, is the limit that is assumed)."
    )


@contextmanager
def _opening(piecewise: PiecewiseModel, path: str, look: Look) -> Iterator[None]:
    """Hooks that load the block at ``path`` and inspect it before it runs, and free it after."""
    block, opened = piecewise.model.get_submodule(path), ExitStack()
    looking = False

    def enter(_: nn.Module, inputs: tuple[Any, ...], given: dict[str, Any]) -> None:
        nonlocal looking
        if not looking:  # the inspection itself runs the block again
            opened.enter_context(piecewise.opened(path))
            looking = True
            look(path, inputs, given)
            looking = False

    def leave(*_: Any) -> None:
        if not looking:
            opened.close()

    hooks = (
        block.register_forward_pre_hook(enter, with_kwargs=True),
        block.register_forward_hook(leave),
    )
    try:
        yield
    finally:
        opened.close()
        for hook in hooks:
            hook.remove()
