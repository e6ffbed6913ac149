"""``edits.applied``: edits that hold while a user calls a model or has it generate.

Where a call continues a cache, an edited mixer is read from what it was given on the whole
sequence.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import Call, call_output
from dsf.inspection.capture.isolation import uncompiled
from dsf.inspection.errors import InspectionError
from dsf.inspection.families.registry import known_modules
from dsf.inspection.model_input import numbers_in
from dsf.inspection.results.layers import Inspection
from dsf.inspection.seen_attentions import CallKey, Exchange, Followed, following, joined
from dsf.interventions.edits import Cut, Edit, MapFrom, Mean, Reduce, Tokens
from dsf.interventions.intervention import Planned, checked_edits, checked_sources, live_model

TOKENS = ("query", "key", "tokens", "token", "from_", "until")
"""Fields of edits that hold tokens."""


@contextmanager
def applied(
    model: nn.Module,
    edits: Sequence[Edit] | Edit,
    *,
    sources: Mapping[str, Inspection] | None = None,
    adapters: Sequence[Adapter] = (),
) -> Iterator[None]:
    """Edit the token mixers of a model while you call it, or have it generate.

    A call on a prompt returns what ``dsf.intervene`` returns for it. Edits also hold for every
    token that is generated, caches included: a cut of ``key=3`` keeps all later tokens from
    reading token 3. Tokens that there are not yet are edited as soon as there are; negative
    positions count from the latest token. At the beginning of every sequence the model runs twice
    more, so that an edit that does not fit raises an error before the call.

    Args:
        model: a torch module; it is as it was after the ``with`` block.
        edits, sources, adapters: as for ``dsf.intervene``.

    Raises:
        InspectionError: inside the block, if an edit does not fit, or needs tokens that are not
            generated yet (``Reduce``, ``MapFrom``, ``Mean`` over this run).
        ReconstructionError: inside the block, if an edited layer is not reproduced.

    Example:
        >>> import dsf, torch
        >>> from dsf.loading import load_model
        >>> model = load_model(dsf.models.folder("llama")).model
        >>> ids, cut = torch.arange(1, 6)[None], dsf.edits.Cut(1, key=2)
        >>> with dsf.edits.applied(model, [cut]):
        ...     output = model(input_ids=ids)
        >>> output.logits.equal(dsf.intervene(model, input_ids=ids, edits=cut).output)
        True
    """
    wanted, others = checked_edits(edits), checked_sources(sources)
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"applied: 'model' expected a torch module, got {type(model).__name__}. Load a "
            "checkpoint first: dsf.loading.load_model(folder).model."
        )
    model = uncompiled(model)

    def begin(sequence: Followed) -> Exchange | None:
        return _exchange(sequence, wanted, others, adapters) if wanted else None

    with following(model, known_modules(model, adapters), begin=begin):
        yield


@torch.inference_mode(False)
@torch.no_grad()
def _exchange(
    sequence: Followed,
    wanted: tuple[Edit, ...],
    sources: Mapping[str, Inspection],
    adapters: Sequence[Adapter],
) -> Exchange:
    """Check the edits on the first call, and return how they change this one and later ones."""
    given = sequence.inputs, sequence.named
    ids = numbers_in(*given)
    steps = ids.shape[1] if isinstance(ids, Tensor) and ids.ndim > 1 else 0
    present = [_present(edit, steps) if steps else edit for edit in wanted]
    original = {id(now): edit for now, edit in zip(present, wanted, strict=True)}
    with live_model(sequence.model, *given, adapters) as live:
        (plan,) = live.plans([present], sources)

    def exchange(key: CallKey, call: Call) -> Tensor | None:
        planned: Planned | None = plan.get(key)
        if planned is None:
            return None
        several = sequence.calls[key]
        edits = tuple(original[id(edit)] for edit in planned.edits)
        whole = [
            each
            for each in edits
            if isinstance(each, Reduce | MapFrom) or (isinstance(each, Mean) and each.over is None)
        ]
        if len(several) > 1 and whole:
            raise InspectionError(
                f"applied: {whole[0]!r} of {planned.name} needs the whole sequence, which is not "
                "known while it is generated. Call the model on the whole sequence, or use another "
                "edit."
            )
        total = sum(sequence.steps)
        now = tuple(_present(edit, total) if total else edit for edit in edits)
        changed = replace(planned, edits=now).put_out(joined(several))
        return changed[:, -call_output(call.output).shape[1] :]

    return exchange


def _present(edit: Edit, steps: int) -> Edit:
    """The edit of the tokens that there are; one that changes nothing if there are none."""
    present: dict[str, Any] = {}
    for each in fields(edit):
        value = getattr(edit, each.name)
        given = value if isinstance(value, list) else [value]
        there = [one for one in given if not isinstance(one, int) or -steps <= one < steps]
        if each.name in TOKENS and there != given:
            if each.type != Tokens:
                return Cut(edit.layer, key=[])
            present[each.name] = there
    return replace(edit, **present)
