"""The checks of types that are on while these tests run: they still find what is wrong."""

import jaxtyping
import pytest
import torch
from beartype import beartype
from jaxtyping import Float
from torch import Tensor

from dsf.inspection.probing.driven import random_values
from dsf.report import plot
from dsf.runtime.shapes import at_least
from tests.type_checks import names_a_shape

HOOKED = jaxtyping.jaxtyped(typechecker=beartype)  # as jaxtyping's hook writes it into a module


def test_a_function_of_the_library_that_names_no_shape_is_checked():
    with pytest.raises(jaxtyping.TypeCheckError, match="'1'"):
        at_least("1", "f", "count", 2)


def test_a_function_of_the_library_that_names_shapes_is_checked():
    with pytest.raises(jaxtyping.TypeCheckError, match="token by token"):
        random_values("token by token", seed=0)


@pytest.mark.usefixtures("our_own_errors")
def test_no_check_speaks_before_our_own_errors():
    with pytest.raises(TypeError, match="'down'"):
        plot.panels("1", 1)


def plain(count: int) -> str:
    return count * "a" if count else 0


def shaped(left: Float[Tensor, " n"], right: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    return left + right if len(left) > 1 else torch.zeros(3)


def words(value: "int") -> None:
    pass


@pytest.mark.parametrize(
    ("function", "right", "wrong"),
    [
        (plain, [2], [["2"], [0]]),
        (shaped, [torch.ones(2)] * 2, [[torch.ones(2), torch.ones(3)], [torch.ones(1)] * 2]),
        (words, [2], [["2"]]),
    ],
)
def test_arguments_and_what_is_returned_are_checked(function, right, wrong):
    checked = HOOKED(function)
    if right:
        checked(*right)
    for given in wrong:
        with pytest.raises(jaxtyping.TypeCheckError):
            checked(*given)


def test_a_function_inside_of_another_is_checked_where_it_names_shapes():
    def inner(left: Float[Tensor, "2"]) -> None:
        pass

    def bare(left: int) -> None:
        pass

    with pytest.raises(jaxtyping.TypeCheckError):
        HOOKED(inner)(torch.ones(3))
    assert HOOKED(bare) is bare


@pytest.mark.parametrize(
    ("annotation", "found"),
    [
        (int, False),
        (list[int | None], False),
        (Float[Tensor, " n"], True),
        (dict[str, tuple[Float[Tensor, " n"] | None, ...]], True),
        ("dsf.System", True),
    ],
    ids=str,
)
def test_where_a_shape_stands(annotation, found):
    assert names_a_shape(annotation) == found
