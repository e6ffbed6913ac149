"""A picture of all maps, small, for where nothing can be run."""

import zlib
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure

from dsf.report.codes import MASKED, decoded
from dsf.report.maps import draw_map

ACROSS = 8
SIDE, NAMES, HEAD = 0.9, 2.4, 0.25  # inches


def still(content: Mapping[str, Any]) -> bytes:
    """One line of thumbnails for every layer of a viewer's content, as a PNG; at most eight."""
    layers = content["layers"]
    across = min(ACROSS, max((len(layer["maps"]) for layer in layers), default=1))
    wide, high = NAMES + across * SIDE, max(len(layers), 1) * (SIDE + HEAD)
    figure = Figure(figsize=(wide, high), dpi=100)
    for down, layer in enumerate(layers):
        bottom = 1 - (down * (SIDE + HEAD) + HEAD + SIDE) / high
        named = f"{layer['name']}\n{layer['family']}"
        text = figure.text(0.1 / wide, bottom + SIDE / 2 / high, named, va="center", fontsize=8)
        text.set(parse_math=False, wrap=True)
        for at, (map, codes) in enumerate(zip(layer["maps"], _codes(layer), strict=True)):
            if at < across:
                left = (NAMES + at * SIDE) / wide
                axes = figure.add_axes((left, bottom, 0.94 * SIDE / wide, SIDE / high))
                weights = decoded(codes, map["scale"])
                draw_map(axes, weights, title="", masked=codes == MASKED)
                axes.set_title(map["label"], fontsize=7, pad=2, parse_math=False)
                axes.set_axis_off()
    out = BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def _codes(layer: Mapping[str, Any]) -> UInt8[np.ndarray, "maps rows columns"]:
    packed = layer["thumbnails"]
    codes = np.frombuffer(zlib.decompress(packed["codes"]), np.uint8)
    return codes.reshape(-1, packed["rows"], packed["columns"])
