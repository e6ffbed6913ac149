"""What adds to the residual stream: the mixers, feed-forward layers and others, found in the steps.

The trunk is the way from the first stream to the output along the residual connections. Whatever
is added to it is a part: the call of a token mixer, or another branch such as a feed-forward layer.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from dsf.network.affine_steps import Step
from dsf.network.trace import MixerStep


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
        (source, names.get(source, f"step {source.number}"))
        for step in trunk
        if step not in mixer_at
        for source in step.sources
        if source not in trunk
    ]
    while branches:
        branch, name = branches.pop()
        if branch in mixer_at:
            found[branch] = Part(mixer_at[branch], branch)
        elif _is_one_part(branch, trunk, mixer_at, names):
            found.setdefault(branch, Part(name, branch))
        else:
            branches += [
                (source, names.get(source, name))
                for source in branch.sources
                if source not in trunk
            ]
    return tuple(sorted(found.values(), key=lambda part: part.step.number))


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
    def reached(step: Step) -> tuple[int, int]:
        """Where it comes from, past a factor or a change of shape, and past how many of these."""
        passed = 0
        while len(step.sources) == 1 and step not in mixers and step not in names:
            step, passed = step.sources[0], passed + 1
        return step.number, passed

    trunk = [stop]
    while trunk[-1] is not root and trunk[-1] not in mixers and trunk[-1].sources:
        trunk.append(min(trunk[-1].sources, key=reached))
    return trunk
