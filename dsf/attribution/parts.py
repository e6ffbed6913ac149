"""What adds to the residual stream: the mixers, feed-forward layers and others, found in the steps.

The trunk is the way from the first stream to the output along the residual connections. Whatever
is added to it is a part: the call of a token mixer, or another branch such as a feed-forward layer.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from dsf.attribution.affine_steps import Step, leading_to
from dsf.attribution.mixer_calls import MixerStep


@dataclass(frozen=True, eq=False)
class Part:
    """One branch that adds to the residual stream.

    Attributes:
        name: the name of its layer, where it is a token mixer; else the path of its module.
        step: the step whose result it adds.
    """

    name: str
    step: Step


def parts_of(
    stop: Step, root: Step, mixed: Sequence[MixerStep], names: Mapping[Step, str]
) -> tuple[Part, ...]:
    """The parts between two steps, in the order in which they ran.

    Where several streams meet, the trunk is the one that goes back to the earliest, since what is
    added to a stream is computed from it. A mixer without a residual connection around it ends the
    trunk.
    """
    mixer_at = {each.step: each.name for each in mixed}
    trunk = _trunk(stop, root, mixer_at, names)
    found = {step: Part(mixer_at[step], step) for step in trunk[-1:] if step in mixer_at}
    branches = [
        (source, _name(source, trunk, names, f"step {source.number}"))
        for step in trunk
        if step not in mixer_at
        for source in step.sources
        if source not in trunk and not _is_trunk_again(source, step, trunk, mixer_at, names)
    ]
    while branches:
        branch, name = branches.pop()
        if branch in mixer_at:
            found[branch] = Part(mixer_at[branch], branch)
        elif _is_one_part(branch, trunk, mixer_at, names):
            found.setdefault(branch, Part(name, branch))
        else:
            branches += [
                (source, _name(source, trunk, names, name))
                for source in branch.sources
                if source not in trunk
            ]
    return tuple(sorted(found.values(), key=lambda part: part.step.number))


def _name(branch: Step, trunk: Collection[Step], names: Mapping[Step, str], other: str) -> str:
    """The path of the module that put a branch out, also where a factor comes after it."""
    step = branch
    while step not in names and len(step.sources) == 1 and step.sources[0] not in trunk:
        step = step.sources[0]
    return names.get(step, other)


def _is_trunk_again(
    branch: Step,
    step: Step,
    trunk: Collection[Step],
    mixers: Collection[Step],
    names: Collection[Step],
) -> bool:
    """Whether a branch is the trunk itself, once more, and not what a layer adds to it.

    So it is where a norm that is written out takes away the mean over the width, one number for all
    channels, and where a head sets the mean over the tokens beside one of them.
    """
    if not branch.shape or not step.shape or branch.shape[-1] >= step.shape[-1]:
        return False
    while branch not in trunk:
        if branch in mixers or branch in names or len(branch.sources) != 1:
            return False
        branch = branch.sources[0]
    return True


def _is_one_part(
    branch: Step, trunk: Collection[Step], mixers: Collection[Step], names: Collection[Step]
) -> bool:
    """Whether no mixer is in the branch, and it is a module's output or takes one result."""
    if set(branch.sources) & set(trunk):
        return True
    inside, waiting = set(), [branch]
    while waiting:
        step = waiting.pop()
        if step in trunk or step in inside:
            continue
        inside.add(step)
        waiting.extend(step.sources)
    return not inside & set(mixers) and (branch in names or len(branch.sources) < 2)


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
