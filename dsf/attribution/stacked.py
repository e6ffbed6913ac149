"""``stack`` and ``Stack``: the blocks of a model on one input as one affine network.

The trunk of the network is the way from the first stream to the output along the residual
connections. Whatever is added to it is a part: the call of a token mixer, or another branch such
as a feed-forward layer.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dsf.attribution.affine_steps import Step, leading_to, replayed
from dsf.attribution.attribution import Attribution, shares_of
from dsf.attribution.shares import Decomposition
from dsf.attribution.targets import Positions, Target, along, functional_of, or_predicted
from dsf.attribution.trace import MixerStep, Trace, calls_by_module
from dsf.evaluate.memory_plan import check_room
from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.containers import lent
from dsf.inspection.capture.module_stack import ModuleStack
from dsf.inspection.capture.precision import guarded, in_float64
from dsf.inspection.choice import Chosen, chosen_layers
from dsf.inspection.errors import InspectionError, ReconstructionError, UnreadableError
from dsf.inspection.examine import Examination, examine, wide_copy
from dsf.inspection.model_input import model_input, tokens_shown, without_cache
from dsf.inspection.rebuild import relative_error
from dsf.inspection.results.layers import Inspection
from dsf.inspection.softmax.attention import plain_experts, recording_attention
from dsf.inspection.whole.stages import single_tokens
from dsf.runtime.argument_checks import checked, is_index
from dsf.runtime.shapes import of_kind


@dataclass(frozen=True, eq=False, repr=False)
class Stack:
    """The blocks of a model on one input, affine from one residual stream to another.

    Stream ``k`` is the input of block ``k``, and the last stream the output of the last block.
    Tokens are in the order of the model's input.

    Attributes:
        inspection: the layers, each with its own map and error.
        blocks: the paths of the blocks.
        hidden: the streams of the run, one more than blocks. A model with several parallel streams
            (hyper-connections) has a further axis for them.
        closed: paths of the modules that are frozen as one matrix for every token, that of smallest
            norm.
        logits: what the model returns: its logits, or the first tensor of its output.
        mixers: the calls of token mixers as steps.
        shown: the tokens of the input that are not padding; None for all.
    """

    inspection: Inspection
    blocks: tuple[str, ...]
    hidden: tuple[Float[Tensor, "sample time ..."], ...]
    closed: tuple[str, ...]
    logits: Float[Tensor, "*axes"] | None
    mixers: tuple[MixerStep, ...]
    shown: Bool[Tensor, "sample time"] | None
    tokenizer: Any | None
    trace: Trace
    _known: dict[tuple[Step, int | None], Decomposition] = field(default_factory=dict)

    @torch.inference_mode(False)
    def attribute(
        self,
        target: Target | None = None,
        against: Target | None = None,
        position: Positions = -1,
        *,
        stream: int | None = None,
    ) -> Attribution:
        """Which tokens, layers and edges of this run made the model give this number.

        The shares sum to the model's own number in float64. They are of this run, with attention
        weights, decays, gates and the factors of norms held; what happens *without* a token is
        another question, since those would then change (``dsf.intervene`` answers it).

        Args:
            target: the number of a token (of a class; of a hidden unit, where the model has no
                head), its text, or one for every sample; by default the token that the model
                predicts, against the runner-up; a linear function from the logits to one number for
                each sample; or, with ``stream``, a vector of the width of the residual stream.
            against: a second token whose logit is subtracted, such as a wrong answer.
            position: at which position of the logits, or of the stream, or one for every sample;
                negative ones count back from the last token that is not padding. A function of the
                logits chooses its own, and a classifier's logits have none.
            stream: attribute the product of a vector with this residual stream instead of a logit;
                stream ``k`` is the input of block ``k``, -1 the output of the last block.

        Raises:
            TypeError, ValueError, IndexError: if there is no such target, position or stream.
            UnreadableError: if the logits do not depend linearly on the streams of this run.
            ReconstructionError: if the shares do not sum to the number.

        Example:
            >>> import dsf, torch
            >>> from dsf.models import folder, recall
            >>> prompts = recall.draw(torch.Generator().manual_seed(0), samples=2)
            >>> stack = dsf.stack(folder("mamba2"), input_ids=prompts.tokens)
            >>> share = stack.attribute(7, against=9)
            >>> share.tokens.shape
            torch.Size([2, 32])
            >>> whole = share.tokens.sum(dim=-1) + share.remainder
            >>> torch.testing.assert_close(whole, share.value)
        """
        if stream is None:
            if self.logits is None or self.trace.output is None:
                raise UnreadableError(
                    f"attribute: what {self.inspection.model} returns does not depend linearly on "
                    "its residual streams, so its logits are not a sum of shares. Pass a vector on "
                    "a stream: attribute(vector, stream=-1)."
                )
            if not self.trace.has_head and (target is None or isinstance(target, str)):
                raise ValueError(
                    f"attribute: 'target' expected the number of a hidden unit, got {target!r}: "
                    f"{self.inspection.model} has no head, so that it predicts no token. Give a "
                    "number, or load the model with its head."
                )
            stop, shown, number = self.trace.output, self.logits, None
            target, against = or_predicted(target, against, shown, position, self.shown)
            functional = functional_of(target, against, position, shown, self.tokenizer, self.shown)
        else:
            of_kind("attribute", "stream", stream, is_index, "a whole number")
            count = len(self.hidden)
            if not -count <= stream < count:
                raise IndexError(
                    f"attribute: stream={stream}, but there are {count} streams, from 0 to "
                    f"{count - 1}."
                )
            number = stream % count
            stop, shown = self.trace.states[number], self.hidden[number]
            if not isinstance(target, Tensor) or against is not None:
                raise TypeError(
                    "attribute: with 'stream' the target is a vector, a tensor of the width of the "
                    f"stream, without 'against', but it is {type(target).__name__}."
                )
            functional = along(target, shown, position, self.shown)
        made = shares_of(functional, shown, self._decomposed(stop, number), self._tolerance)
        if self.trace.has_head or stream is not None or callable(target):
            return made
        return replace(made, _unit=f"hidden unit {target} at the output, ")

    def _decomposed(self, stop: Step, number: int | None) -> Decomposition:
        """What adds to the stream before ``stop``; the same for every target there."""
        if (stop, number) not in self._known:
            root, first = self.trace.states[0], self.hidden[0]
            parts = parts_of(stop, root, self.mixers, self.trace.names)
            mixers = [mixer for mixer in self.mixers if mixer.step.number < stop.number]
            wanted = {step for _, step in parts} | {mixer.step for mixer in mixers}
            wanted |= {mixer.source for mixer in mixers}
            from_tokens = replayed({root: first[None]}, wanted)
            streams = zip(self.trace.states, self.hidden, strict=True)
            whole = {mixer.name for mixer in self.mixers}
            self._known[stop, number] = Decomposition(
                stop=stop,
                streams=tuple(each for each in streams if each[0].number <= stop.number),
                parts=parts,
                mixers=tuple(mixers),
                from_tokens={at: part[0] for at, part in from_tokens.items() if part is not None},
                names=tuple(layer.name for layer in self.inspection),
                not_whole=tuple(one.name for one in self.inspection if one.name not in whole),
                live=self.trace,
                number=number,
                constant=self._rebuilt(root, None, stop),
            )
        return self._known[stop, number]

    def contributions(
        self, start: int = 0, stop: int | None = None
    ) -> Float[Tensor, "sample written read *width"]:
        """The vector that each token of stream ``start`` adds to each token of stream ``stop``.

        Their sum over ``read``, plus the remainder, is ``hidden[stop]``. They count all paths:
        through mixers, through feed-forward layers, and along the residual connections.

        Raises:
            IndexError: if there are no such streams.
            MapTooLarge: if it would take more than half of the free memory.
        """
        start, stop = self._between(start, stop)
        stream, read = self.hidden[stop], self.hidden[start].shape[1]
        samples, steps, *width = stream.shape
        check_room("contributions", (samples, steps, read, *width), stream.dtype, stream.device)
        parts = torch.cat(list(self._parts(start, stop)))
        return rearrange(parts, "read sample written ... -> sample written read ...")

    def remainder(
        self, start: int = 0, stop: int | None = None
    ) -> Float[Tensor, "sample time *width"]:
        """The part of stream ``stop`` that does not come from stream ``start``, such as biases."""
        start, stop = self._between(start, stop)
        return self._rebuilt(self.trace.states[start], None, self.trace.states[stop])

    def _rebuilt(self, start: Step, given: Tensor | None, stop: Step) -> Tensor:
        """The stream ``stop`` where ``start`` has the result ``given``; None for zero."""
        known = {self.trace.states[0]: self.hidden[0], start: given}
        front = {step: None if part is None else part[None] for step, part in known.items()}
        result = replayed(front, [stop], constants=True)[stop]
        return self.hidden[0].new_zeros(stop.shape) if result is None else result[0]

    def rollout(
        self, start: int = 0, stop: int | None = None
    ) -> Float[Tensor, "sample written read"]:
        """The signed share of each token of stream ``stop`` that comes from each of ``start``.

        It is exact: the inner product of the contribution with the stream, over the stream's
        squared length. A row sums to one minus the share of the remainder. A contribution that
        points against the stream has a negative share, and single shares may exceed one.
        """
        start, stop = self._between(start, stop)
        stream = self.hidden[stop].flatten(2)
        along = stream / stream.square().sum(dim=-1, keepdim=True)
        shares = [
            torch.einsum("rswd,swd->swr", parts.flatten(3), along)
            for parts in self._parts(start, stop)
        ]
        return torch.cat(shares, dim=-1)

    @property
    def _tolerance(self) -> float:
        return max(layer.tolerance for layer in self.inspection)

    def check(self) -> None:
        """Check that the steps reproduce the hidden states, which runs all of them once.

        Contributions, remainders and rollouts do so when they are first asked for. ``attribute``
        checks instead that its shares sum to the number.

        Raises:
            ReconstructionError: if they do not.
        """
        if not self.error <= self._tolerance:
            raise ReconstructionError(
                f"stack: the blocks of {self.inspection.model} reproduce its hidden states with a "
                f"relative error of {self.error:.1e}, above the tolerance of "
                f"{self._tolerance:.0e}, so contributions would be wrong. Does the model draw "
                "random numbers, or keep a state between runs?",
                self.error,
            )

    @cached_property
    def error(self) -> float:
        """The largest relative error of a stream that is rebuilt from the stream before it.

        That is cut into two parts at random, since what is not linear might rebuild the whole.
        """
        errors, rng = [], torch.Generator().manual_seed(0)
        steps = zip(pairwise(self.trace.states), pairwise(self.hidden), strict=True)
        for (first, last), (given, stream) in steps:
            part = given * (3 * torch.rand(given.shape, generator=rng).to(given) - 1)
            rest = replayed({first: (given - part)[None]}, [last])[last]
            rebuilt = self._rebuilt(first, part, last)
            rebuilt = rebuilt if rest is None else rebuilt + rest[0]
            errors.append(relative_error(rebuilt, stream))
        return max(errors)

    def _parts(self, start: int, stop: int) -> Iterator[Tensor]:
        """Contributions of a few tokens at a time, ``read sample written *width``."""
        last = self.trace.states[stop]
        for alone in single_tokens(self.hidden[start]):
            added = replayed({self.trace.states[start]: alone}, [last])[last]
            yield alone.new_zeros(len(alone), *last.shape) if added is None else added

    def _between(self, start: int, stop: int | None) -> tuple[int, int]:
        self.check()
        last = len(self.blocks)
        chosen = last if stop is None else stop
        for name, number in (("start", start), ("stop", chosen)):
            of_kind("Stack", name, number, is_index, "a whole number")
        if not 0 <= start < chosen <= last:
            raise IndexError(
                f"Stack: streams are counted from 0 to {last}, and 'start' must be below 'stop', "
                f"but start is {start} and stop is {chosen}."
            )
        return start, chosen

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Stack cannot be pickled or copied: its steps are functions of the run. Save the "
            "layers, which can be (stack.inspection), or numbers, such as stack.contributions(); "
            "the model and its input give the stack again."
        )

    def __repr__(self) -> str:
        magnitude = f"{self.error:.0e}" if self.error else "the last bit"
        closed = f", {len(self.closed)} modules closed" if self.closed else ""
        return (
            f"Stack({self.inspection.model}: {len(self.blocks)} blocks, "
            f"{self.hidden[0].shape[1]} tokens{closed}; exact to {magnitude})"
        )


@checked
@torch.inference_mode(False)
def stack(
    model: nn.Module | str | Path,
    *inputs: Any,
    blocks: str | None = None,
    adapters: Sequence[Adapter] = (),
    **named: Any,
) -> Stack:
    """Compose the token mixers of a model across its layers, on one input.

    A copy of the model runs in float64. Every mixer enters as the whole layer of its inspection.
    Between the mixers, operations that are linear in the residual stream are recorded as they are.
    Everything else is frozen at its value on this run:

    - a norm divides by the root mean square or deviation of this run,
    - an activation is the factor ``act(p) / p``,
    - of a product of two branches of the stream, the one with an activation is a constant (a gate),
    - a module with other operations (a mixture of experts) that treats every token by itself is,
      for each token, the matrix of smallest norm from its input to its output; ``closed`` lists
      these modules.

    On this input the network then gives the model's own hidden states.

    Args:
        model: a torch module, the folder of a checkpoint, or a hub id. A module is copied.
        inputs, named: a text, a mapping of tensors, or what the model is called with, such as
            ``input_ids=...``, with the options of :data:`dsf.inspection.model_input.OPTIONS`.
        blocks: the path of the list of blocks, such as ``model.layers``, where a model has several
            (an encoder and a decoder).
        adapters: how to read modules of your own, as for :func:`dsf.inspect`.

    Raises:
        InspectionError: if the blocks are not found or did not run.
        UnreadableError: if an operation between the mixers cannot be recorded as affine.
        ReconstructionError: if a layer is not reproduced. Whether the steps reproduce the hidden
            states of the model is checked when numbers are asked for.

    Example:
        >>> import dsf, torch
        >>> _ = torch.manual_seed(0)
        >>> layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        >>> model = torch.nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        >>> stack = dsf.stack(model, torch.randn(1, 5, 8))
        >>> stack
        Stack(TransformerEncoder: 3 blocks, 5 tokens; exact to 1e-15)
        >>> parts = stack.contributions()  # from the first block's input to the last one's output
        >>> parts.shape
        torch.Size([1, 5, 5, 8])
        >>> whole = parts.sum(dim=2) + stack.remainder()
        >>> torch.testing.assert_close(whole, stack.hidden[-1])
    """
    given = model_input(model, inputs, named, where="stack")
    model = wide_copy(given.model, adapters).requires_grad_(False)
    inputs, named = in_float64((given.inputs, given.named))
    question = Examination(
        inputs=inputs,
        named=named,
        adapters=adapters,
        checks="none",
        tokens=given.tokens,
        spell=given.spell,
    )
    inspection = examine(model, question)
    inspection = replace(inspection, environment={**inspection.environment, **given.environment})
    mixers = calls_by_module(inspection.layers)
    found = blocks_of(model, mixers, blocks)
    model.eval()

    def run() -> Any:
        where = ModuleStack(model, claimed=set())
        with (
            torch.random.fork_rng(),
            plain_experts(model),
            guarded(model),
            where.followed(),  # attention as inspected: other ways differ in padding
            recording_attention(model, where, []),
        ):
            return model(*lent(inputs), **lent(without_cache(model, named)))

    trace = Trace(model, run, found, mixers)
    with torch.no_grad():
        with trace.recorded():
            run()
        with torch.random.fork_rng(), plain_experts(model), guarded(model):
            for _, check in trace.closed:
                check()
    if not trace.is_complete:
        raise InspectionError(
            f"stack: the block {found[-1]} did not run. Name other blocks: "
            "stack(model, ..., blocks='...')."
        )
    return Stack(
        inspection=inspection,
        blocks=found,
        hidden=tuple(trace.streams),
        closed=tuple(name for name, _ in trace.closed),
        logits=trace.logits,
        mixers=tuple(trace.mixed),
        shown=tokens_shown(inputs, named),
        tokenizer=given.tokenizer,
        trace=trace,
    )


@torch.inference_mode(False)
def attribute(  # noqa: PLR0913 (which number, of which part)
    model: nn.Module | str | Path,
    *inputs: Any,
    target: Target | None = None,
    against: Target | None = None,
    position: Positions = -1,
    blocks: str | None = None,
    layers: Chosen = None,
    heads: Chosen = None,
    adapters: Sequence[Adapter] = (),
    **named: Any,
) -> Attribution:
    """Return what made a model say something: shares of one number, by token, layer and edge.

    The same as ``dsf.stack(model, ...).attribute(target, against, position)``, which is the way to
    several numbers of one run.

    Args:
        target, against, position: as for :meth:`Stack.attribute`.
        layers, heads: whose edges ``strongest_edges`` lists, as for :func:`dsf.inspect`; all by
            default. Shares do not depend on it.
        model, inputs, blocks, adapters, named: as for :func:`stack`.

    Raises:
        InspectionError, UnreadableError, ReconstructionError: as for :func:`stack`.
        TypeError, ValueError, IndexError: as for :meth:`Stack.attribute`.

    Example:
        >>> import dsf
        >>> from dsf.models import folder
        >>> share = dsf.attribute(folder("text_llama"), "And all our yesterdays")
        >>> bool((share.value > 0).all())  # the predicted token is ahead of the runner-up
        True
    """
    found = stack(model, *inputs, blocks=blocks, adapters=adapters, **named)
    chosen_layers([layer.name for layer in found.inspection], layers)
    return replace(found.attribute(target, against, position), _chosen=(layers, heads))


def blocks_of(model: nn.Module, mixers: Collection[str], wanted: str | None) -> tuple[str, ...]:
    """Return the blocks in order, by path: the entries of the list of modules with the mixers."""
    lists = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList | nn.Sequential)
        and any(mixer.startswith(f"{path}." if path else "") for mixer in mixers)
    }
    outer = [
        path
        for path in lists
        if not any(path != other and (not other or path.startswith(f"{other}.")) for other in lists)
    ]
    if wanted is not None and wanted not in lists:
        raise InspectionError(
            f"blocks='{wanted}' is not a list of modules with token mixers. Name one of: "
            f"{', '.join(map(repr, lists)) or 'none; this model has no such list'}."
        )
    if wanted is None and len(outer) != 1:
        raise InspectionError(
            "'blocks' expected the name of one list of blocks, since the model has "
            f"{', '.join(map(repr, outer)) or 'none'} with token mixers in them. Name one."
        )
    chosen = outer[0] if wanted is None else wanted
    front = f"{chosen}." if chosen else ""
    return tuple(f"{front}{name}" for name, _ in lists[chosen].named_children())


def parts_of(
    stop: Step, root: Step, mixed: Sequence[MixerStep], names: Mapping[Step, str]
) -> tuple[tuple[str, Step], ...]:
    """The parts between two steps, in the order in which they ran.

    Where several streams meet, the trunk goes back to the earliest, since what is added to a stream
    is computed from it. A mixer without a residual connection around it ends the trunk.
    """
    mixer_at = {each.step: each.name for each in mixed}
    trunk = _trunk(stop, root, mixer_at, names)

    def name_of(branch: Step, other: str) -> str:
        """The path of the module that put a branch out, also where a factor comes after it."""
        step = branch
        while step not in names and len(step.sources) == 1 and step.sources[0] not in trunk:
            step = step.sources[0]
        return names.get(step, other or f"step {branch.number}")

    def is_trunk_again(branch: Step, step: Step) -> bool:
        """Whether a branch is the trunk once more: its mean over the width, or over the tokens."""
        if not branch.shape or not step.shape or branch.shape[-1] >= step.shape[-1]:
            return False
        while branch not in trunk:
            if branch in mixer_at or branch in names or len(branch.sources) != 1:
                return False
            branch = branch.sources[0]
        return True

    def is_one_part(branch: Step) -> bool:
        """Whether no mixer is in the branch, and it is a module's output or takes one result."""
        if set(branch.sources) & set(trunk):
            return True
        inside = leading_to([branch], trunk)
        return not set(inside) & set(mixer_at) and (branch in names or len(branch.sources) < 2)

    found: dict[Step, str] = {}
    waiting = [(step, "") for step in trunk]
    while waiting:
        step, name = waiting.pop()
        if step in mixer_at:
            found[step] = mixer_at[step]
        elif step not in trunk and is_one_part(step):
            found.setdefault(step, name)
        else:
            outer = (source for source in step.sources if source not in trunk)
            new = [source for source in outer if not is_trunk_again(source, step)]
            waiting += [(source, name_of(source, name)) for source in new]
    return tuple((found[step], step) for step in sorted(found, key=lambda step: step.number))


def _trunk(stop: Step, root: Step, mixers: Collection[Step], names: Collection[Step]) -> list[Step]:
    reached: dict[Step, tuple[int, int]] = {}
    for step in leading_to([stop], {root}):
        # Where it comes from, past sums, factors and changes of shape, and past how many of these.
        is_end = step in mixers or step in names or not step.sources
        earlier = [reached.get(source, (source.number, 0)) for source in step.sources]
        first, passed = min(earlier, default=(0, 0))
        reached[step] = (step.number, 0) if is_end else (first, passed + 1)
    trunk = [stop]
    while trunk[-1] is not root and trunk[-1] not in mixers and trunk[-1].sources:
        sources = trunk[-1].sources
        trunk.append(min(sources, key=lambda step: reached.get(step, (step.number, 0))))
    return trunk
