"""The child process that lists the tensors of a torch archive without running any of its code.

This package needs only the standard library, so that the process starts fast, does not import torch
and never unpickles.
"""
