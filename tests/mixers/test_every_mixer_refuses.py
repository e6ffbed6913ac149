"""What every mixer refuses: parts that do not fit together."""

from dataclasses import fields, replace

import pytest

import dsf
from dsf.runtime.shapes import ShapeError
from tests.mixers.mixer_fields import axes_of, draw, tensors


def timed(mixer):
    """The axis of time of every tensor field that has one, counted from the end."""
    places = {
        field.name: axes.index("time") - len(axes)
        for field in fields(mixer)
        if "time" in (axes := axes_of(field.type))
    }
    return {name: places[name] for name in places if name in tensors(mixer)}


WITH_SEVERAL_TIMED = [cls for cls in dsf.mixers.ALL if len(timed(draw(cls, 1))) > 1]


@pytest.mark.usefixtures("our_own_errors")
@pytest.mark.parametrize("cls", WITH_SEVERAL_TIMED, ids=lambda cls: cls.__name__)
def test_parts_of_different_length_are_refused(cls):
    mixer = draw(cls, 9)
    for name, axis in timed(mixer).items():
        short = getattr(mixer, name).narrow(axis, 0, 8)
        with pytest.raises(ShapeError, match=f"'time' .*{name}"):
            replace(mixer, **{name: short})


@pytest.mark.usefixtures("our_own_errors")
def test_a_part_with_too_few_axes_is_refused(mixer):
    for field in fields(mixer):
        axes = axes_of(field.type)
        if field.name in tensors(mixer) and any(axis.isalpha() for axis in axes):
            with pytest.raises(ShapeError, match=f"'{field.name}'"):
                replace(mixer, **{field.name: getattr(mixer, field.name).sum()})
            with pytest.raises(TypeError, match=f"'{field.name}'"):
                replace(mixer, **{field.name: [1.0]})


@pytest.mark.usefixtures("our_own_errors")
def test_parts_on_different_devices_are_refused(mixer):
    name = next(iter(tensors(mixer)))
    elsewhere = getattr(mixer, name).to("meta")
    with pytest.raises(ShapeError, match=f"{name} is on meta"):
        replace(mixer, **{name: elsewhere})
