"""Limits of a process on its own memory, processor time and files."""


def limit(*, address_bytes: int | None, data_bytes: int | None, seconds: int) -> None:
    """Limit this process, for good; it can write no file and leave no core.

    Args:
        address_bytes: of all addresses, mapped libraries included; None for no limit.
        data_bytes: of memory of its own; None for no limit.
        seconds: of processor time.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limits; the parent's time limit still applies.
        return
    wanted = {
        resource.RLIMIT_AS: address_bytes,
        resource.RLIMIT_DATA: data_bytes,
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    for kind, value in wanted.items():
        if value is not None:
            resource.setrlimit(kind, (value, value))
