"""Four tiny trained models that come with the package: a configuration and weights each.

They solve the recall task of :mod:`dsf.models.recall`, so their maps show trained structure. The
classes that run them are those of transformers, which ``pip install "dsf-toolkit[hf]"`` brings
along.
"""

from importlib.resources import files
from pathlib import Path

NAMES = ("llama", "mamba", "mamba2", "qwen3_next")


def folder(name: str) -> Path:
    """The folder of one embedded model, as ``AutoModelForCausalLM.from_pretrained`` takes it.

    Raises:
        ValueError: if no model of that name comes with the package.
    """
    if name not in NAMES:
        raise ValueError(
            f"folder: no embedded model is called {name!r}. Choose one of {', '.join(NAMES)}."
        )
    return Path(str(files(__name__) / name))
