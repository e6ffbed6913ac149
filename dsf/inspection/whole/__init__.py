"""A layer from its input to its output: affine stages around the mixer."""
