"""The routes by which softmax attention is found in a model."""
