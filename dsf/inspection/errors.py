"""What can go wrong with an inspection, each with a name of its own."""

import math


class InspectionError(ValueError):
    """A model could not be read."""


class ReconstructionError(InspectionError):
    """A rebuilt layer does not reproduce the layer.

    Attributes:
        formula: the relative difference; NaN where nothing could be compared.
    """

    def __init__(self, message: str, formula: float = math.nan):
        super().__init__(message)
        self.formula = formula


class RoundingWarning(UserWarning):
    """A run lies further from its module in float64 than its number type and length explain."""


class UnreadableError(InspectionError):
    """An adapter knows the module, but not what this call asked of it; the layer is listed."""


class NothingCapturedError(InspectionError):
    """No token mixer of the model could be read."""


class NonFiniteWeightsError(InspectionError):
    """Weights that are not numbers: nothing said about the layer would mean anything."""
