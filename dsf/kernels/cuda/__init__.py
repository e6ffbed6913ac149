"""Kernels for CUDA in Triton: bare tensors in, bare tensors out, single precision.

Decays are only multiplied, in double precision, and states are kept in it; products of matrices
keep all digits (no TF32). The modules import triton, so they are imported where they are used.
Only :mod:`dsf.kernels.cuda.fla` differs: it calls another library, in TF32, where asked for.
"""
