"""The ways by which softmax attention is found in a model."""
