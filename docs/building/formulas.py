"""Formulas of docstrings as LaTeX: they are written to be read as text, and typeset here."""

import re

GAP = "        "
"""Stands between two formulas of one line."""
OPERATORS = {"exp", "log", "max", "tanh", "diag", "softmax", "mean", "Re", "relu", "level", "or"}
SYMBOLS = {
    "Σ": r"\sum ", "Π": r"\prod ", "⊙": r"\odot ", "ᵀ": r"^{\top}", "ᴴ": r"^{H}",
    "²": "^{2}", "⁻¹": "^{-1}", "q̂": r"\hat{q}", "k̂": r"\hat{k}", "h̃": r"\tilde{h}",
    "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "δ": r"\delta ", "Δ": r"\Delta ",
    "ε": r"\varepsilon ", "η": r"\eta ", "θ": r"\theta ", "λ": r"\lambda ", "μ": r"\mu ",
    "ν": r"\nu ", "ρ": r"\rho ", "σ": r"\sigma ", "φ": r"\varphi ", "<=": r"\le ",
    "~": r"\sim ", " ...": r" \cdots ", "..": r"\ldots ",
}  # fmt: skip
TOKEN = re.compile(r"[A-Za-z]{2,}(?:-[a-z]+)*")
WORDS = re.compile(rf"{TOKEN.pattern}(?: {TOKEN.pattern})*")


def formulas(block: str) -> list[str]:
    """The formulas of an indented block, each as LaTeX.

    >>> formulas("    S_t = diag(g_t) S_{t-1} + k_t v_tᵀ        o_t = S_tᵀ q_t")[1]
    'o_{t} = S_{t}^{\\top} q_{t}'
    """
    lines = [line.strip() for line in block.splitlines()]
    return [latex(part) for line in lines for part in re.split(r" {4,}", line) if part]


def latex(text: str) -> str:
    """One formula."""
    kept: list[str] = []

    def keep(made: str) -> str:
        kept.append(made)
        return f"\x00{chr(0xE000 + len(kept) - 1)}"

    text = _roots(text)
    text = re.sub(r"_([A-Za-z0-9]+)", r"_{\1}", text)
    text = re.sub(r"\^(\((?:[^()]|\([^()]*\))*\))", r"^{\1}", text)
    text = re.sub(r"(?<![\d .])\.(?=[^\W\d]|\()", lambda _: keep(r"\cdot "), text)
    text = re.sub(r"_\{[A-Za-z0-9]+\}", lambda found: keep(found[0]), text)
    text = WORDS.sub(lambda found: keep(_worded(found[0])), text)
    for symbol, command in SYMBOLS.items():
        text = text.replace(symbol, command)
    for place, made in enumerate(kept):
        text = text.replace(f"\x00{chr(0xE000 + place)}", made)
    return text


def _roots(text: str) -> str:
    return re.sub(r"sqrt\(((?:[^()]|\([^()]*\))*)\)", r"\\sqrt{\1}", text)


def _worded(words: str) -> str:
    """A name of a function or a quantity upright, words as text."""
    if words in ("sqrt", "dh", "dt"):
        return words
    if words in OPERATORS:
        return rf"\operatorname{{{words}}}"
    if " " in words or words == "for":
        return rf"\text{{ {words} }}"
    return rf"\mathrm{{{words}}}\,"
