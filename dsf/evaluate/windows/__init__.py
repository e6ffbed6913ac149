"""A few tokens of a system as four matrices: how many, and how each structure is folded."""
