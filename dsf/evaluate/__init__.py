"""Evaluators: the response of a system to a signal, and the attention map of a system."""

from dsf.evaluate import scans
from dsf.evaluate.chunks import Method, chunkwise, convolution, final_state, respond, scan
from dsf.evaluate.enclosure import Enclosure
from dsf.evaluate.maps import MapOrSystem, Rows, attention_map, row_blocks
from dsf.evaluate.memory_plan import MapTooLarge
from dsf.evaluate.realisation import realise, reduce
from dsf.evaluate.stepwise import recurrent, step
from dsf.evaluate.windows import Panel, fold

__all__ = [
    "Enclosure",
    "MapOrSystem",
    "MapTooLarge",
    "Method",
    "Panel",
    "Rows",
    "attention_map",
    "chunkwise",
    "convolution",
    "final_state",
    "fold",
    "realise",
    "recurrent",
    "reduce",
    "respond",
    "row_blocks",
    "scan",
    "scans",
    "step",
]
