"""Eight small trained models inside the package, each as configuration and weights.

Four solve the recall task of :mod:`dsf.models.recall`, so that their maps show trained structure
with a known answer. Four predict the text of :mod:`dsf.models.text`, and come with a tokenizer, so
that their maps show words. They are run by classes of transformers, which
``pip install "dsf-toolkit[hf]"`` installs.
"""

from importlib.resources import files
from pathlib import Path

from dsf.runtime.first_use import finding

__all__ = ["NAMES", "TEXT_NAMES", "folder", "recall", "text"]

__getattr__ = finding(__name__, {name: f"{__name__}.{name}" for name in ("recall", "text")})

NAMES = ("llama", "mamba", "mamba2", "qwen3_next")
"""The models that recall."""

TEXT_NAMES = ("text_llama", "text_mamba", "text_mamba2", "text_qwen3_next")
"""The models of text, of the same four architectures."""


def folder(name: str) -> Path:
    """The folder of one embedded model, for ``AutoModelForCausalLM.from_pretrained``.

    Raises:
        ValueError: if the package has no model of that name.
    """
    if name not in NAMES + TEXT_NAMES:
        raise ValueError(
            f"folder: no embedded model is called {name!r}. Choose one of "
            f"{', '.join(NAMES + TEXT_NAMES)}."
        )
    return Path(str(files(__name__) / name))
