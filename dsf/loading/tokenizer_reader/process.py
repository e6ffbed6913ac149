"""The child process: limits itself, opens one tokenizer as the parent would, and uses it."""

import sys
from typing import Any

from dsf.loading.child.limits import limit
from dsf.loading.tokenizer_reader.opening import open_files, open_gguf, use

_TRIALS = (
    *("", "a", "To be, or not to be.\n\tThat is: 42", " x" * 600),
    "é ß \u65e5\u672c \U0001f469\u200d\U0001f4bb \u202e\x00 \ufffd",
)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """``opened``, or ``refused`` with the reason; a process that ends otherwise says nothing."""
    limit(address_bytes=None, data_bytes=request["bytes_of_memory"], seconds=request["seconds"])
    sys.path[:] = request["path"]
    if request["gguf"] is None:
        sys.modules["torch"] = None  # type: ignore[assignment]  # it would take seconds to import
    try:
        if request["gguf"] is None:
            tokenizer = open_files(request["folder"], request["settings"])
        else:
            tokenizer = open_gguf(request["folder"], request["gguf"])
        for text in (*_TRIALS, *request["texts"]):
            use(tokenizer, text)
    except BaseException as error:  # a panic of compiled code is no Exception
        return {"refused": f"{type(error).__name__}: {error}"}
    return {"opened": True}
