"""``intervene``: runs a model with some of its token mixers edited, and compares it with itself.

An edited layer reads its coefficients from the input that it has in the changed run, its system is
edited, and the response continues through the rest of the layer and of the model. Later layers
compute their own coefficients anew. Layers without an edit run as they are.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from dsf.attribution.targets import Positions, Target, measured, tokens_shown
from dsf.inspection.adapter import Adapter
from dsf.inspection.choice import Chosen
from dsf.inspection.model_input import model_input
from dsf.inspection.results.layers import InspectedLayer, Inspection
from dsf.inspection.results.saving import save
from dsf.inspection.results.table import Table
from dsf.interventions.edits import Edit
from dsf.interventions.live_model import live_model
from dsf.runtime.shapes import of_kind


@dataclass(frozen=True, eq=False, repr=False)
class Intervention:
    """A model's output with and without edits.

    Attributes:
        output: what the model returns with the edits: its logits, or the first tensor of its
            output. In the number type of the model.
        clean: the same without edits, from the model as it is.
        edits: the edits.
        layers: the layers that were edited, as they are in the clean run.
        tokenizer: reads targets that are given as text; None where there is none.
        notes: what was ignored when the checkpoint was loaded, one sentence each; none where the
            model is a module.
        shown: the tokens of the input that are not padding; None for all.
    """

    output: Shaped[Tensor, "*axes"]
    clean: Shaped[Tensor, "*axes"]
    edits: tuple[Edit, ...]
    layers: tuple[InspectedLayer, ...]
    tokenizer: Any | None = None
    notes: tuple[str, ...] = ()
    shown: Bool[Tensor, "sample time"] | None = field(default=None, repr=False)

    @property
    def logits(self) -> Shaped[Tensor, "*axes"]:
        """The same as ``output``."""
        return self.output

    def effect(
        self, target: Target, against: Target | None = None, position: Positions = -1
    ) -> Float[Tensor, " sample"]:
        """Return by how much the edits change a logit, or the difference of two.

        Args:
            target, against, position: as for ``Stack.attribute``. A function of the logits need not
                be linear: it may be a log-probability, or a distance from the clean logits.

        Raises:
            TypeError, ValueError, IndexError: if there is no such target or position.
        """
        clean, changed = self.clean.double(), self.output.double()
        number = measured(target, against, position, clean, self.tokenizer, self.shown)
        return number(changed) - number(clean)

    def rounding(
        self, target: Target, against: Target | None = None, position: Positions = -1
    ) -> Float[Tensor, " sample"]:
        """Return by how much rounding of the output alone may move the number of an effect.

        Every logit is taken off by half a digit of its number type, in the direction that moves the
        number most. In bfloat16 this is as large as many effects: run the model in float32 to see
        those. What is rounded inside the model comes on top.

        Args:
            target, against, position: as for ``effect``.
        """
        clean = self.clean.double()
        number = measured(target, against, position, clean, self.tokenizer, self.shown)
        with torch.enable_grad():
            given = clean.clone().requires_grad_()
            (slope,) = torch.autograd.grad(number(given).sum(), given)
        digit = torch.finfo(self.output.dtype).eps / 2
        return (slope * clean).abs().flatten(1).sum(dim=1) * digit

    def to_pandas(self) -> Any:
        """Return what moved as a data frame: one row for each sample and token of the output.

        Columns are ``sample``, ``token`` and ``moved``, the largest change of a number there.

        Raises:
            ModuleNotFoundError: if pandas is not installed.
        """
        moved = (self.output - self.clean).abs().flatten(2 if self.output.ndim > 2 else 1)
        moved = moved.amax(dim=-1).reshape(len(self.output), -1)
        return Table(
            tuple(
                {"sample": sample, "token": token, "moved": number}
                for sample, row in enumerate(moved.tolist())
                for token, number in enumerate(row)
            )
        ).to_pandas()

    def save(self, folder: str | Path) -> Path:
        """Write this result into a folder, from which ``dsf.load`` reads it without the model."""
        return save(self, folder)

    def __repr__(self) -> str:
        moved = (self.output - self.clean).abs().max().item()
        listed = "; ".join(map(repr, self.edits)) or "no edits"
        return f"Intervention({listed}: outputs move by at most {moved:.3g})"


@torch.inference_mode(False)
def intervene(
    model: nn.Module | str | Path,
    *inputs: Any,
    edits: Sequence[Edit] | Edit = (),
    layers: Chosen = None,
    heads: Chosen = None,
    sources: Mapping[str, Inspection] | None = None,
    adapters: Sequence[Adapter] = (),
    **named: Any,
) -> Intervention:
    """Run a model with edited token mixers, and once without.

    For many questions about one input, ``dsf.sweep`` shares the run without edits.

    Args:
        model: a torch module, the folder of a checkpoint, or a hub id. A module is left unchanged.
        inputs, named: a text, a mapping of tensors, or what the model is called with, such as
            ``input_ids=...``, with the options of :data:`dsf.inspection.model_input.OPTIONS`.
        edits: what is changed, see ``dsf.edits``; they may also come last among ``inputs``.
            Edits of one layer act together: those of values first, then of the state or the map,
            then of the response.
        layers, heads: where the edits act, as for :func:`dsf.inspect`: in these layers of those
            that they name, and on these heads where they name none; everywhere by default.
        sources: other runs by name, for edits that refer to one by its name.
        adapters: how to read modules of your own, as for :func:`dsf.inspect`.

    Raises:
        InspectionError: if an edit is of a layer, head, token or run that there is not, or does not
            fit its layer, or the layer cannot be read; before the changed run where possible.
        ReconstructionError: if an edited layer is not reproduced from its coefficients.

    Example:
        Without the edge from the key to its value the model forgets the answer:

        >>> import dsf, torch
        >>> from dsf.models import folder, recall
        >>> prompts = recall.draw(torch.Generator().manual_seed(0), samples=1)
        >>> cut = dsf.edits.Cut("*.1.self_attn", query=[-1])
        >>> result = dsf.intervene(folder("llama"), edits=[cut], input_ids=prompts.tokens)
        >>> result.output.shape
        torch.Size([1, 32, 33])
    """
    if not edits and inputs:
        last = inputs[-1]
        first = last[0] if isinstance(last, list | tuple) and last else last
        if isinstance(first, Edit):
            inputs, edits = inputs[:-1], last
    wanted = checked_edits(edits, heads)
    opened = model_input(model, inputs, named, where="intervene")
    module, inputs, named = opened.model, opened.inputs, opened.named
    with live_model(module, inputs, named, adapters) as live:
        edited: list[InspectedLayer] = []
        (plan,) = live.plans([wanted], checked_sources(sources), edited.append, layers)
        output = live.changed(plan)
    return Intervention(
        output=output,
        clean=live.clean,
        edits=wanted,
        layers=tuple(edited),
        tokenizer=opened.tokenizer,
        notes=opened.notes,
        shown=tokens_shown(inputs, named),
    )


def checked_edits(edits: Sequence[Edit] | Edit, heads: Chosen = None) -> tuple[Edit, ...]:
    """The edits of one run, on ``heads`` where they name none."""
    is_one = isinstance(edits, Edit) or not isinstance(edits, Iterable)
    listed: Any = (edits,) if is_one else edits
    several: tuple[Edit, ...] = tuple(listed)
    odd = [each for each in several if not isinstance(each, Edit) or type(each) is Edit]
    if odd:
        raise TypeError(
            f"intervene: 'edits' must hold edits such as dsf.edits.Cut(...), but one is "
            f"{type(odd[0]).__name__}."
        )
    if heads is None:
        return several
    return tuple(each if each.heads is not None else replace(each, heads=heads) for each in several)


def checked_sources(sources: Mapping[str, Inspection] | None) -> Any:
    known: Any = {} if sources is None else sources
    for each in known.values() if isinstance(known, Mapping) else [known]:
        words = "inspections by name, as in sources={'other': dsf.inspect(model, ...)}"
        of_kind("intervene", "sources", each, Inspection, words)
    return known
