"""CUDA kernels in Triton on plain tensors in single precision.

Products of decays and states are in double precision; matrix products are in full single precision
(no TF32). The modules import triton, so they are imported only where they are used. The exception
is :mod:`dsf.systems.kernels.cuda.fla`, which calls another library, in TF32, where asked to.
"""
