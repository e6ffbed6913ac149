"""Adapters between systems and CUDA kernels, which must pass a trial on the device before use."""
