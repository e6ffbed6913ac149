"""Loads models from untrusted checkpoints: weight files and configurations are opened here only.

No code of a checkpoint runs.
"""

from typing import TYPE_CHECKING

from dsf.runtime.first_use import finding

__getattr__ = finding(__name__)

if TYPE_CHECKING:
    from dsf.loading.errors import LoadError as LoadError
    from dsf.loading.loader import LoadedModel as LoadedModel
    from dsf.loading.loader import file_hashes as file_hashes
    from dsf.loading.loader import load_model as load_model
    from dsf.loading.loader import load_skeleton as load_skeleton
    from dsf.loading.loader import read_model_tokenizer as read_model_tokenizer
    from dsf.loading.tokenizer_child import token_texts as token_texts
