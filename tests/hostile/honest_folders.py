"""Small checkpoint folders as honest people save them, as the bytes of their files."""

import tempfile
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from tests.loading.gguf_writing import small_llama, write_gguf

Files = dict[str, bytes]
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
SIZES = {"vocab_size": 96, "hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 24}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1}


def honest_folders() -> dict[str, Files]:
    """By name: tied and untied weights, one file and several, each kind of tokenizer."""
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    gpt2 = transformers.GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=96, n_positions=32,
                                   bos_token_id=0, eos_token_id=0)  # fmt: skip
    llama = transformers.LlamaConfig(**SIZES, **HEADS, max_position_embeddings=64)
    bert = transformers.BertConfig(**SIZES, num_attention_heads=2, max_position_embeddings=32)
    mamba = transformers.MambaConfig(vocab_size=96, hidden_size=16, num_hidden_layers=2)
    mixtral = transformers.MixtralConfig(
        **SIZES, **HEADS, num_local_experts=3, max_position_embeddings=64
    )
    return {
        "gpt2": _saved(transformers.GPT2LMHeadModel(gpt2)),
        "llama": _saved(transformers.LlamaForCausalLM(llama), _byte_pairs(), "8KB"),
        "bert": _saved(transformers.BertModel(bert), _word_pieces()),
        "mamba": _saved(transformers.MambaForCausalLM(mamba), _byte_pairs()),
        "mixtral": _saved(transformers.MixtralForCausalLM(mixtral), _unigram()),
        "gguf": _one_file(),
    }


def _one_file() -> Files:
    """A Llama and its tokenizer in one GGUF file, its matrices in blocks of 8 bits."""
    import gguf

    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "model.gguf"
        write_gguf(path, small_llama(), gguf.GGMLQuantizationType.Q8_0)
        return {path.name: path.read_bytes()}


def _saved(
    model: transformers.PreTrainedModel,
    tokenizer: transformers.PreTrainedTokenizerFast | None = None,
    shard: str = "1GB",
) -> Files:
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    with tempfile.TemporaryDirectory() as place:
        model.save_pretrained(place, max_shard_size=shard)
        if tokenizer is not None:
            tokenizer.save_pretrained(place)
        return {path.name: path.read_bytes() for path in sorted(Path(place).iterdir())}


def _fast(tokenizer: Tokenizer, unknown: str | None = None) -> transformers.PreTrainedTokenizerFast:
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=unknown)
    made.chat_template = TEMPLATE
    return made


def _byte_pairs() -> transformers.PreTrainedTokenizerFast:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())[:90]
    vocabulary = {letter: at for at, letter in enumerate([*letters, "ab", "abc"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("a", "b"), ("ab", "c")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _fast(tokenizer)


def _word_pieces() -> transformers.PreTrainedTokenizerFast:
    words = {"[UNK]": 0, "to": 1, "be": 2, "##ing": 3, "a": 4}
    tokenizer = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return _fast(tokenizer, "[UNK]")


def _unigram() -> transformers.PreTrainedTokenizerFast:
    pieces = [("<unk>", 0.0), ("\u2581to", -1.0), ("\u2581", -2.0), ("b", -2.5), ("e", -3.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return _fast(tokenizer, "<unk>")


def slow_words() -> bytes:
    """A ``vocab.txt``, from which the model library makes a tokenizer by itself."""
    return "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "to", "be", "##ing"]).encode()
