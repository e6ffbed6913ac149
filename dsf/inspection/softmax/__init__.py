"""The ways by which softmax attention is found in a model, one module for each."""
