"""Four small trained models that come with the package, each as configuration and weights.

They solve the recall task of :mod:`dsf.models.recall`, so that their maps show trained structure.
They are run by classes of transformers, which ``pip install "dsf-toolkit[hf]"`` installs.
"""

from importlib.resources import files
from pathlib import Path

NAMES = ("llama", "mamba", "mamba2", "qwen3_next")


def folder(name: str) -> Path:
    """The folder of one embedded model, for ``AutoModelForCausalLM.from_pretrained``.

    Raises:
        ValueError: if no model of that name comes with the package.
    """
    if name not in NAMES:
        raise ValueError(
            f"folder: no embedded model is called {name!r}. Choose one of {', '.join(NAMES)}."
        )
    return Path(str(files(__name__) / name))
