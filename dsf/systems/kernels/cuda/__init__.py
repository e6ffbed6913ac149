"""CUDA kernels in Triton on plain tensors in single precision.

Products of decays and states are in double precision; matrix products are in full single precision
(no TF32). The modules import triton, so they are imported only where they are used.
"""
