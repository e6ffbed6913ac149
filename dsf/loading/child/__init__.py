"""What every child process that opens untrusted files does first: ``start`` and ``limits``.

Only the standard library is needed, so that a process starts fast.
"""
