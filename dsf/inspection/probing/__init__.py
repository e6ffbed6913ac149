"""Unknown mixers, driven with unit values."""
