"""The errors that an inspection raises."""


class InspectionError(ValueError):
    """A model could not be read."""


class ReconstructionError(InspectionError):
    """A layer that was rebuilt from its coefficients does not reproduce the captured output."""


class UnreadableError(InspectionError):
    """An adapter reads the class of a module but not this call, which is listed as unsupported."""


class NothingCapturedError(InspectionError):
    """No token mixer of the model could be read."""


class NonFiniteWeightsError(InspectionError):
    """A weight is NaN or infinite, so that no statement about its layer would mean anything."""
