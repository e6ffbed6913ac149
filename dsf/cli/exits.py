"""What the exit codes say."""

WELL = 0
FAILED = 1
"""A layer was not reproduced."""
USAGE = 2
"""A wrong call, or input that was refused."""
LIMIT = 3
"""A limit was hit, or something is missing on this machine."""
INTERRUPTED = 130
BROKEN_PIPE = 141


def code_of(error: Exception) -> int | None:
    """The exit code of an error that a person can act on; None for a fault of the program."""
    from dsf.evaluate import MapTooLarge
    from dsf.inspection import InspectionError, ReconstructionError
    from dsf.loading import LoadError

    if isinstance(error, ReconstructionError):
        return FAILED
    if isinstance(error, (InspectionError, LoadError, OSError, ValueError)):
        return USAGE
    if isinstance(error, (MapTooLarge, MemoryError)):
        return LIMIT
    return None
