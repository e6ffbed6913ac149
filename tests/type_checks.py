"""The checks of types that tests turn on, where they find something that nothing else does.

jaxtyping's hook wraps every function of the library. Three in four name no shape: to these beartype
is enough, which makes the same checks without binding arguments to axes. Functions inside of
functions would be compiled anew at every call of the outer one; none names a shape, and mypy reads
them.
"""

from functools import wraps
from inspect import isfunction
from typing import Any, get_args

import jaxtyping
from beartype import BeartypeConf, beartype
from jaxtyping import config

READS_FRAMES = ("dsf.inspection.probing.tape",)
"""What looks for the code that called it leaves out jaxtyping's calls, and would find ours."""
CHECKED = beartype(conf=BeartypeConf(violation_type=jaxtyping.TypeCheckError))


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
        kept = each.__module__ in READS_FRAMES or not isfunction(each)
        if kept or any(map(names_a_shape, each.__annotations__.values())):
            return jaxtyped(each, typechecker=typechecker)
        return each if "<locals>" in each.__qualname__ else checked(each)

    return decorator


def checked(function: Any) -> Any:
    """The function with its checks, which are left out while those of jaxtyping are."""
    strict = CHECKED(function)

    @wraps(function)
    def either(*args: Any, **kwargs: Any) -> Any:
        here = function if config.jaxtyping_disable else strict
        return here(*args, **kwargs)

    return either
