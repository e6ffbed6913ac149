"""What public functions are given is compared with their annotations before anything is done."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pytest
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

import dsf
from dsf.runtime.argument_checks import checked
from dsf.runtime.shapes import ShapeError

pytestmark = pytest.mark.usefixtures("our_own_errors")

OTHERS = (
    dsf.testing.assert_layer_exact,
    dsf.testing.check_mixer,
    dsf.jobs.gather,
    dsf.jobs.summary,
    dsf.jobs.processes,
    dsf.jobs.cluster,
    *(getattr(dsf.report.plot, name) for name in ("by_lag", "complex_plane", "curves")),
    *(getattr(dsf.report.plot, name) for name in ("per_map", "per_token", "spectrum")),
    *(
        getattr(dsf.report.plot, name)
        for name in ("heat_map", "heat_maps", "layers_and_heads", "panels", "draw")
    ),
    dsf.report.plot.report_state,
)
UNSAID = {
    ("select", "index"),
    ("check_mixer", "mixer_or_class"),
    ("horizon", "layer"),
}
"""Arguments of no one kind, which their functions look at themselves."""


def public() -> Iterable[tuple[str, Callable[..., Any], str]]:
    """Every argument of every function of these packages."""
    for package in (dsf.measures, dsf.systems.algebra, dsf.report.exchange, dsf.certify):
        for name in package.__all__:
            function = getattr(package, name)
            if inspect.isfunction(function):
                for argument in inspect.signature(function).parameters:
                    yield f"{package.__name__}.{name}", function, argument
    for function in (
        dsf.evaluate.realise,
        dsf.evaluate.reduce,
        dsf.evaluate.row_blocks,
        dsf.evaluate.step,
    ):
        for argument in inspect.signature(function).parameters:
            yield f"dsf.{function.__name__}", function, argument
    for function in (dsf.stack, dsf.compare, dsf.testing.check_adapter, *OTHERS):
        for argument, said in inspect.signature(function).parameters.items():
            if said.kind is not said.VAR_KEYWORD and said.annotation is not Any:
                yield f"dsf.{function.__name__}", function, argument


@pytest.mark.parametrize(
    ("function", "argument"),
    [
        pytest.param(function, argument, id=f"{name}-{argument}")
        for name, function, argument in public()
        if (function.__name__, argument) not in UNSAID
    ],
)
def test_every_argument_is_named_before_the_work(function, argument):
    kind = inspect.signature(function).parameters[argument].kind
    before = [torch.eye(2)] if function is dsf.measures.streamed else []
    many = kind is inspect.Parameter.VAR_POSITIONAL
    with pytest.raises(TypeError, match=f"'{argument}'"):
        function(*before, object()) if many else function(**{argument: object()})


@checked
def sample(  # noqa: PLR0917 (one of every kind)
    count: int = 1,
    share: float = 0.5,
    is_on: bool = False,
    name: Literal["a", "b"] = "a",
    tokens: Sequence[int] = (),
    texts: Sequence[str] | None = None,
    pair: tuple[int, int] = (1, 2),
    look: Callable[[int], int] = abs,
    facts: Mapping[str, str] | None = None,
    either: int | str = 1,
    anything: Any = None,
) -> tuple[Any, ...]:
    """What it was given."""
    return count, share, is_on, name, tokens, texts, pair, look, facts, either, anything


@pytest.mark.parametrize(
    ("argument", "value", "words"),
    [
        ("count", 1.5, "a whole number, but it is 1.5"),
        ("count", True, "a whole number, but it is True"),
        ("count", "1", "a whole number, but it is '1'"),
        ("count", None, "a whole number, but it is NoneType"),
        ("share", "a", "a number, but it is 'a'"),
        ("share", 1j, "a number, but it is 1j"),
        ("share", torch.ones(2), "a number, but it is Tensor"),
        ("share", float("nan"), "a number, but it is nan"),
        ("is_on", 1, "True or False, but it is 1"),
        ("is_on", "no", "True or False, but it is 'no'"),
        ("name", "c", "one of 'a', 'b', but it is 'c'"),
        ("tokens", "12", "a list, each a whole number, but it is '12'"),
        ("tokens", {1, 2}, "a list, each a whole number, but it is set"),
        ("tokens", [1, 1.5], "a list, each a whole number, but it is a list of 2 that holds 1.5"),
        ("tokens", torch.tensor([True, False]), "a list, each a whole number, but .* holds Tensor"),
        ("texts", "ab", "a list, each a text, but it is 'ab'"),
        ("pair", (1, 2, 3), "2 values: a whole number, a whole number, but it is a tuple of 3"),
        ("look", 3, "a function, but it is 3"),
        ("facts", [1], "a mapping such as a dict, but it is a list of 1"),
        ("either", 1.5, "a whole number or a text, but it is 1.5"),
    ],
)
def test_another_kind(argument, value, words):
    with pytest.raises((TypeError, ValueError), match=f"^sample: '{argument}' must be {words}"):
        sample(**{argument: value})


def test_an_entry_of_a_pair_is_named():
    with pytest.raises(TypeError, match=r"'pair\[1\]'"):
        sample(pair=(1, 1.5))


def test_numbers_become_those_of_python_and_all_else_stays():
    found = sample(np.int64(3), torch.tensor(0.25), np.True_, tokens=torch.tensor([1, 2]))
    assert found[:5] == (3, 0.25, True, "a", [1, 2])
    assert [type(each) for each in found[:4]] == [int, float, bool, str]
    given = [1, 2]
    assert sample(tokens=given, anything=given)[4] is given


@checked
def joined(
    key: Float[Tensor, "tokens key"],
    query: Float[Tensor, "queries key"],
    *rest: Shaped[Tensor, " width"],
) -> int:
    """How many tensors there are."""
    return 2 + len(rest) + 0 * (key.ndim + query.ndim)


@pytest.mark.parametrize(
    ("key", "error", "words"),
    [
        (torch.ones(2, 3).long(), TypeError, "'key' must hold real numbers, .* is int64.*double"),
        (torch.ones(2, 3) * 1j, TypeError, "'key' must hold real numbers, .*complex64.*real or"),
        (
            torch.ones(3),
            ShapeError,
            r"'key' must have the axes 'tokens key', but its shape is \(3,\)",
        ),
        (torch.ones(0, 3), ShapeError, "'key' must have at least one entry along 'tokens'"),
        (torch.ones(2, 4), ShapeError, "the same 'key' size, but key has 4, query has 3"),
        (torch.ones(2, 3).to_sparse(), ValueError, "'key' must be a dense tensor.*to_dense"),
        (torch.ones(2, 3, device="meta"), ValueError, "'key' must hold numbers, but .* meta"),
        (np.ones((2, 3)), TypeError, r"'key' must be a torch tensor .*ndarray\. torch\.from_numpy"),
        ([[1.0]], TypeError, r"a list of 1\. torch\.tensor\(\.\.\.\) makes a tensor"),
    ],
)
def test_a_tensor_that_does_not_fit(key, error, words):
    with pytest.raises(error, match=f"^joined: .*{words}"):
        joined(key, torch.ones(5, 3))


def test_tensors_that_fit():
    assert joined(torch.ones(2, 3), torch.ones(5, 3), torch.ones(1), torch.ones(1)) == 4
    with pytest.raises(TypeError, match="'rest'"):
        joined(torch.ones(2, 3), torch.ones(5, 3), "a")


@checked
def counted(tokens: Int[Tensor, " time"]) -> int:
    """How many."""
    return len(tokens)


def test_whole_numbers():
    assert counted(torch.ones(2, dtype=torch.uint8)) == 2
    for tokens in (torch.ones(2), torch.ones(2, dtype=torch.bool)):
        with pytest.raises(TypeError, match="'tokens'"):
            counted(tokens)


def test_what_has_a_system_is_told_how():
    mixer = dsf.mixers.DeltaNet.draw(torch.Generator().manual_seed(0), steps=4)
    with pytest.raises(TypeError, match=r"mixer\.system\(\)"):
        dsf.measures.product_norms(mixer)
    two = dsf.systems.SystemSum((mixer.system(), mixer.system()))
    with pytest.raises(TypeError, match="SystemSum"):
        dsf.measures.product_norms(two)
