"""Evaluators: the response of a system to a signal, and the attention map of a system."""

from dsf.evaluate import scans as scans
from dsf.evaluate.chunks import Method as Method
from dsf.evaluate.chunks import chunkwise as chunkwise
from dsf.evaluate.chunks import convolution as convolution
from dsf.evaluate.chunks import final_state as final_state
from dsf.evaluate.chunks import respond as respond
from dsf.evaluate.chunks import scan as scan
from dsf.evaluate.enclosure import Enclosure as Enclosure
from dsf.evaluate.maps import MapOrSystem as MapOrSystem
from dsf.evaluate.maps import Rows as Rows
from dsf.evaluate.maps import attention_map as attention_map
from dsf.evaluate.maps import row_blocks as row_blocks
from dsf.evaluate.memory_plan import MapTooLarge as MapTooLarge
from dsf.evaluate.realisation import realise as realise
from dsf.evaluate.realisation import reduce as reduce
from dsf.evaluate.stepwise import recurrent as recurrent
from dsf.evaluate.stepwise import step as step
from dsf.evaluate.windows import Panel as Panel
from dsf.evaluate.windows import fold as fold
from dsf.runtime.first_use import public_names

__all__ = public_names(__name__)
