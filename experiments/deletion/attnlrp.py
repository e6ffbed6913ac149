"""AttnLRP (Achtibat et al. 2024) of the prompts of this experiment, in an environment of its own.

Release 2.1 of its package, lxt, cannot be imported beside transformers 5, so this script needs
neither dsf nor its environment. It reads the prompts that ``experiments.deletion.run`` leaves, and
writes a score for every token, which the next run of that script reads:

    python -m experiments.deletion.run
    python -m venv .venv-lrp && .venv-lrp/bin/pip install --group lrp
    .venv-lrp/bin/python -m experiments.deletion.attnlrp
    python -m experiments.deletion.run
"""

import json
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
PROMPTS, SCORES = FOLDER / "prompts.json", FOLDER / "attnlrp.json"
READS = ("text_llama", "smollm2")
"""The models that the package has rules for."""
SAME = 1e-3
"""By how much a logit may differ between two releases of the model library, relative."""


def main() -> None:
    import torch
    from lxt.efficient import monkey_patch
    from transformers.models.llama import modeling_llama

    monkey_patch(modeling_llama)
    found = {}
    for name, given in json.loads(PROMPTS.read_text(encoding="utf-8")).items():
        file = next((path.name for path in Path(given["folder"]).glob("*.gguf")), None)
        model = modeling_llama.LlamaForCausalLM.from_pretrained(
            given["folder"], torch_dtype=torch.float32, gguf_file=file
        )
        model = model.eval().requires_grad_(False)
        found[name] = []
        for prompt in given["prompts"]:
            ids = torch.tensor([prompt["ids"]])
            embedded = model.get_input_embeddings()(ids).requires_grad_()
            logit = model(inputs_embeds=embedded, use_cache=False).logits[0, -1, prompt["target"]]
            if abs(logit.item() - prompt["logit"]) > SAME * abs(prompt["logit"]):
                sys.exit(f"{name}: the logit is {logit.item()}, but was {prompt['logit']}")
            logit.backward()
            scores = (embedded * embedded.grad).sum(dim=-1)[0]
            found[name].append([float(f"{score:.6g}") for score in scores.tolist()])
        print(f"{name}: {len(found[name])} prompts", flush=True)
    SCORES.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
