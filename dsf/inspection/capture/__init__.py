"""A model is run without a trace, and what its modules were given and put out is written down."""
