"""Windows of tokens folded into panels of four matrices, and how many tokens a window has."""
