"""Whole layers, from input to output: the mixer with the affine stages before and after it."""
