"""The checks of types that tests turn on, where they find something that nothing else does.

jaxtyping's hook wraps every function of the library. Three in four name no shape: to these beartype
is enough, which makes the same checks without binding arguments to axes. Functions inside of
functions would be compiled anew at every call of the outer one; none names a shape, and mypy reads
them. Of every function and class the first calls in a test are checked: checks of all calls, in
loops over tokens as well, took more time than the tests themselves.
"""

from functools import wraps
from inspect import isclass, isfunction
from typing import Any, get_args

import jaxtyping
from beartype import BeartypeConf, beartype
from jaxtyping import config

READS_FRAMES = ("dsf.inspection.capture.modes", "dsf.inspection.recording")
"""What looks for the code that called it would find our checks, and is not checked."""
CHECKED = beartype(conf=BeartypeConf(violation_type=jaxtyping.TypeCheckError))
CALLS_CHECKED = 3  # of one function in one test
BEGUN = [0]  # how many tests have begun


def begin() -> None:
    """Tell that another test begins."""
    BEGUN[0] += 1


def names_a_shape(annotation: Any) -> bool:
    """Whether axes stand in it; words are left to jaxtyping, which looks up what they mean."""
    if isinstance(annotation, str):
        return True
    is_shape = isinstance(annotation, type) and issubclass(annotation, jaxtyping.AbstractArray)
    return is_shape or any(map(names_a_shape, get_args(annotation)))


def sparing(jaxtyped: Any) -> Any:
    """jaxtyping's decorator for what names a shape, and for classes."""

    def decorator(*given: Any, typechecker: Any) -> Any:
        if not given:
            return lambda each: decorator(each, typechecker=typechecker)
        (each,) = given
        # Numba reads the types of a compiled loop itself.
        if each.__module__ in READS_FRAMES or (isfunction(each) and not each.__annotations__):
            return each
        if isclass(each):
            plain = each.__init__
            jaxtyped(each, typechecker=typechecker)
            if each.__init__ is not plain:
                each.__init__ = first_calls(each.__init__, plain)
            return each
        if not isfunction(each):
            return jaxtyped(each, typechecker=typechecker)
        if any(map(names_a_shape, each.__annotations__.values())):
            return first_calls(jaxtyped(each, typechecker=typechecker), each)
        return each if "<locals>" in each.__qualname__ else first_calls(CHECKED(each), each)

    return decorator


def first_calls(strict: Any, function: Any) -> Any:
    """The function, checked at its first calls in a test, unless the checks are turned off."""
    latest, calls = 0, 0

    @wraps(function)
    def either(*args: Any, **kwargs: Any) -> Any:
        nonlocal latest, calls
        if latest != BEGUN[0]:
            latest, calls = BEGUN[0], 0
        calls += 1
        is_checked = calls <= CALLS_CHECKED and not config.jaxtyping_disable
        return (strict if is_checked else function)(*args, **kwargs)

    return either
