"""``Stack``: the blocks of a model as one affine network, and what each token contributes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, reduce
from itertools import pairwise
from typing import Any, NoReturn

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from dsf.attribution.affine_steps import Step, contributed, left_over, linear_results, rebuilt
from dsf.attribution.attribution import Attribution, Decomposition, attributed
from dsf.attribution.mixer_calls import MixerStep
from dsf.attribution.parts import parts_of
from dsf.attribution.targets import Target, along, functional_of
from dsf.evaluate.memory_plan import check_room
from dsf.inspection.errors import ReconstructionError, UnreadableError
from dsf.inspection.rebuild import relative_error
from dsf.inspection.results.layers import Inspection
from dsf.inspection.whole.affine_layer import TOGETHER
from dsf.runtime.argument_checks import is_index
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
        states: for every stream, the step whose result it is.
        logits: what the model puts out: its logits, or the first tensor of its output.
        output: the step whose result the logits are; None if they do not depend linearly on the
            streams of this run.
        mixers: the calls of token mixers as steps.
        names: for steps that are the output of a module, its path.
        tokenizer: reads targets that are given as text; None where there is none.
        results: of some steps, in the run.
    """

    inspection: Inspection
    blocks: tuple[str, ...]
    hidden: tuple[Float[Tensor, "sample time ..."], ...]
    closed: tuple[str, ...]
    states: tuple[Step, ...]
    logits: Float[Tensor, "*axes"] | None = None
    output: Step | None = None
    mixers: tuple[MixerStep, ...] = ()
    names: Mapping[Step, str] = field(default_factory=dict)
    tokenizer: Any | None = None
    results: Mapping[Step, Tensor] = field(default_factory=dict)

    @torch.inference_mode(False)
    def attribute(
        self,
        target: Target,
        against: Target | None = None,
        position: int = -1,
        *,
        stream: int | None = None,
    ) -> Attribution:
        """Which tokens, layers and edges of this run made the model give this number.

        The number is a logit, the difference of two logits (``against``), or any linear functional.
        One adjoint pass through the affine steps of the run gives all shares, exactly: they sum to
        the model's own number in float64. They are of this run, with attention weights, decays,
        gates and the factors of norms held; what happens *without* a token is another question,
        since those would then change (``dsf.intervene`` answers it).

        Args:
            target: the number of a token (of a class), its text, or one for every sample; a
                function from the logits to one number for each sample, which must be linear; or,
                with ``stream``, a vector of the width of the residual stream.
            against: a second token whose logit is subtracted, such as a wrong answer.
            position: at which position of the logits, or of the stream; the last by default. A
                function of the logits chooses its own, and a classifier's logits have none.
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
            if self.logits is None or self.output is None:
                raise UnreadableError(
                    f"attribute: what {self.inspection.model} puts out does not depend linearly on "
                    "its residual streams, so its logits are no sum of shares. Give a vector over "
                    "a stream: attribute(vector, stream=-1)."
                )
            stop, shown = self.output, self.logits
            functional = functional_of(target, against, position, shown, self.tokenizer)
        else:
            number = self._stream(stream)
            stop, shown = self.states[number], self.hidden[number]
            if not isinstance(target, Tensor) or against is not None:
                raise TypeError(
                    "attribute: with 'stream' the target is a vector, a tensor of the width of the "
                    f"stream, without 'against', but it is {type(target).__name__}."
                )
            functional = along(target, shown, position)
        return attributed(
            functional,
            shown,
            into=self._decomposed(stop),
            tolerance=self._tolerance,
        )

    def _decomposed(self, stop: Step) -> Decomposition:
        """What adds to the stream before ``stop``; the same for every target there."""
        if stop not in self._known:
            root, first = self.states[0], self.hidden[0]
            parts = parts_of(stop, root, self.mixers, self.names)
            mixers = [mixer for mixer in self.mixers if mixer.step.number < stop.number]
            wanted = {part.step for part in parts} | {mixer.step for mixer in mixers}
            wanted |= {mixer.source for mixer in mixers}
            streams = zip(self.states, self.hidden, strict=True)
            whole = {mixer.name for mixer in self.mixers}
            self._known[stop] = Decomposition(
                stop=stop,
                streams=tuple(each for each in streams if each[0].number <= stop.number),
                parts=parts,
                mixers=tuple(mixers),
                from_tokens=linear_results(root, first, wanted, self.results),
                not_whole=tuple(one.name for one in self.inspection if one.name not in whole),
            )
        return self._known[stop]

    @cached_property
    def _known(self) -> dict[Step, Decomposition]:
        return {}

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
        return left_over(self.states[start], self.states[stop], self.states[0], self.hidden[0])

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

    def chained_rollout(
        self, start: int = 0, stop: int | None = None
    ) -> Float[Tensor, "sample written read"]:
        """The product of the single blocks' rollouts: an approximation of :meth:`rollout`.

        Between blocks it keeps one number of every contribution and not its direction, as attention
        rollout does. Once the single blocks are known, any pair of streams costs matrix products.
        """
        start, stop = self._between(start, stop)
        return reduce(lambda earlier, later: later @ earlier, self._single_blocks[start:stop])

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
        """The largest relative error of a stream that is rebuilt from the stream before it."""
        errors = []
        for (first, last), (given, stream) in zip(
            pairwise(self.states), pairwise(self.hidden), strict=True
        ):
            again = rebuilt(first, given, last, self.states[0], self.hidden[0])
            errors.append(relative_error(again, stream))
        return max(errors)

    @cached_property
    def _single_blocks(self) -> list[Tensor]:
        return [self.rollout(block, block + 1) for block in range(len(self.blocks))]

    def _parts(self, start: int, stop: int) -> Iterator[Tensor]:
        """Contributions of a few tokens at a time, ``read sample written *width``."""
        given = self.hidden[start]
        for first in range(0, given.shape[1], TOGETHER):
            tokens = range(first, min(first + TOGETHER, given.shape[1]))
            alone = given.new_zeros(len(tokens), *given.shape)
            for place, token in enumerate(tokens):
                alone[place, :, token] = given[:, token]
            yield contributed(self.states[start], self.states[stop], alone)

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

    def _stream(self, number: int) -> int:
        if isinstance(number, bool) or not hasattr(number, "__index__"):
            raise TypeError(f"attribute: stream={number!r}, but it is a whole number.")
        count = len(self.hidden)
        if not -count <= number < count:
            raise IndexError(
                f"attribute: stream={number}, but there are {count} streams, from 0 to {count - 1}."
            )
        return number % count

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
