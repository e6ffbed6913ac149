"""The whole mixer of every family: from the module's input to its output, in one map and a rest."""

from dataclasses import replace

import pytest
import torch

import dsf
from dsf.inspection import InspectionError, ReconstructionError
from dsf.inspection.whole.stages import Centre, Chain, Scale
from tests.inspection.families.tiny_models import FAMILIES, build, inputs, skip_a_known_defect

pytestmark = pytest.mark.matrix

# Where a family's projections, convolutions and norms have biases, what is left without the input.
WITH_A_REMAINDER = {"mamba", "mamba2", "recurrent_gemma", "xlstm", "lfm2"}


@pytest.fixture(params=FAMILIES)
def layer(request):
    skip_a_known_defect(request.param)
    model = build(request.param).double()
    inspection = dsf.inspect(model, **inputs(9, padding="left"))
    return next(one for one in inspection if type(one.mixer).__name__ != "SoftmaxAttention")


def close(ours, theirs, *, within=1e-12):
    assert ours.shape == theirs.shape
    return (ours - theirs).abs().max() <= within * theirs.abs().max()


@pytest.mark.sampled(count=9)
def test_the_map_the_parts_and_the_rest_make_the_output(layer):
    """The output itself is compared with the captured one when ``whole`` is made."""
    whole = layer.whole
    output = whole(whole.given)
    parts = whole.contributions()
    assert close(parts.sum(dim=2) + whole.remainder, output)
    assert ahead(parts) == 0

    stream = between_projections(whole)
    mixed = torch.einsum("scij,sjc->sic", layer.mixer_map(), stream)
    inner = len(whole.leave.before_projection().stages)
    assert close(Chain(whole.leave.stages[inner:]).linear(mixed), whole.linear(whole.given))
    assert close(layer.mixer_map(slice(2, 5)), layer.mixer_map()[..., 2:5, :])
    if layer.family in WITH_A_REMAINDER:
        assert whole.remainder.abs().max() > 0.05 * output.abs().max()


def ahead(parts):
    """The largest contribution of a token to an earlier one."""
    steps = parts.shape[1]
    later = torch.ones(steps, steps, dtype=torch.bool).triu(1)
    return parts[:, later].abs().max()


def between_projections(whole):
    """What the channel maps read, without constants: the mean of a head taken out where it is."""
    behind = len(whole.enter.behind_projections().stages)
    own = whole.enter.stages[: len(whole.enter.stages) - behind]
    centred = [stage for stage in whole.enter if isinstance(stage, Centre)]
    return Chain((*own, *centred)).linear(whole.given)


@pytest.mark.parametrize("part", ["enter", "leave"])
def test_a_mistake_around_the_mixer_is_found(part):
    """Another gate or another activation than the layer's leaves the mixer as it was."""
    from dsf.inspection.families import selective_scans

    right = selective_scans.MAMBA
    inspection = dsf.inspect(build("mamba").double(), **inputs(9))
    chain = getattr(right, part)

    def wrong(layer, *rest):
        made = chain(layer, *rest)
        return Chain((Scale(torch.full((1,), 1.01, dtype=torch.float64)), *made))

    shell = inspection[0].shell
    layer, _, mixer, tolerance = shell.args
    bent = replace(right, **{part: wrong})
    with pytest.raises(ReconstructionError, match="differs by 1"):
        shell.func(layer, bent, mixer, tolerance)


def test_a_layer_whose_surroundings_are_unknown_says_so():
    from dsf.inspection.families import selective_scans

    without = replace(selective_scans.MAMBA, enter=None)
    inspection = dsf.inspect(build("mamba"), adapters=(without,), **inputs(9))
    with pytest.raises(InspectionError, match="only the mixer"):
        inspection[0].mixer_map()


def test_weights_written_into_since_the_run_are_refused():
    model = build("mamba")
    inspection = dsf.inspect(model, **inputs(9))
    with torch.no_grad():
        model.backbone.layers[0].mixer.out_proj.weight.mul_(2)
    with pytest.raises(InspectionError, match=r"'out_proj.weight'"):
        inspection[0].mixer_map()
