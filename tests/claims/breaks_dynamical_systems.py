"""One thing changed in each check, after which its verdict must be another one."""

from collections.abc import Callable

from dsf.certificates import Certificate

BREAKS: dict[str, Callable[[], Certificate]] = {}
