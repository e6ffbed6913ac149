"""Ten small trained models inside the package, each as configuration and weights.

Four solve the recall task of :mod:`dsf.models.recall`, so that their maps show trained structure
with a known answer, and two of these were trained further to recall over thousands of tokens. Four
predict the text of :mod:`dsf.models.text`, and come with a tokenizer, so that their maps show
words. They are run by classes of transformers, which
``pip install "dsf-toolkit[hf]"`` installs.
"""

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from dsf.runtime.first_use import finding

if TYPE_CHECKING:  # which need torch
    from dsf.models import recall, text

__all__ = ["LONG_NAMES", "NAMES", "TEXT_NAMES", "folder", "recall", "text"]


__getattr__ = finding(__name__)

NAMES = ("llama", "mamba", "mamba2", "qwen3_next")
"""The models that recall."""

LONG_NAMES = ("long_mamba2", "long_qwen3_next")
"""The models that recall over thousands of tokens (``recall.draw_long``)."""

TEXT_NAMES = ("text_llama", "text_mamba", "text_mamba2", "text_qwen3_next")
"""The models of text, of the same four architectures."""


def folder(name: str) -> Path:
    """The folder of one embedded model, for ``AutoModelForCausalLM.from_pretrained``.

    Raises:
        ValueError: if the package has no model of that name.
    """
    every = NAMES + LONG_NAMES + TEXT_NAMES
    if name not in every:
        raise ValueError(
            f"folder: no embedded model is called {name!r}. Choose one of {', '.join(every)}."
        )
    return Path(str(files(__name__) / name))
