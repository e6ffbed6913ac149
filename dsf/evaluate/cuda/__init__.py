"""Systems handed to kernels for CUDA, each after a trial on the card at hand."""
