"""An attribution of a checkpoint, for a terminal and for JSON."""

from dataclasses import dataclass, replace
from typing import Any

from dsf.attribution import Attribution, Paths, stack
from dsf.cli.options import Options
from dsf.cli.prompt import Prompt
from dsf.cli.run_model import Opened, open_checkpoint
from dsf.cli.terminal import print_table
from dsf.cli.threads import ThreadCount
from dsf.inspection.results.table import Table
from dsf.report.escaping import escaped


@dataclass(frozen=True)
class Attributed:
    """An attribution and what it is of.

    Attributes:
        share: the attribution.
        opened: the model and its input.
        target: the tokens whose logits are explained, in words.
        position: where the logits are read.
        paths: the strongest paths; None where they were not asked for.
        coefficients: on which coefficients the number hangs; None where that was not asked for.
    """

    share: Attribution
    opened: Opened
    target: str
    position: int
    paths: Paths | None = None
    coefficients: Table | None = None

    def show(self, top: int) -> None:
        """Tables of tokens, layers and edges, then the sum."""
        share = self.share
        tokens = share.tokens[0]
        print(f"{self.target} after token {self._token(self.position)}")
        print_table(
            ("token", "share"),
            [
                (self._token(at), _signed(tokens[at].item()))
                for at in tokens.abs().argsort(descending=True, stable=True)[:top].tolist()
            ],
        )
        direct = share.layers
        names = ("embedding", *dict.fromkeys((*direct, *share.total)))
        print_table(
            ("layer", "direct", "total"),
            [
                (
                    name,
                    _signed(self._direct[name]) if name in self._direct else "",
                    _signed(share.total[name][0].item()) if name in share.total else "",
                )
                for name in names
            ],
        )
        edges = share.strongest_edges(top)
        print_table(
            ("layer", "written", "read", "share"),
            [
                (
                    edge["layer"],
                    self._token(edge["written"]) if "written" in edge else "",
                    self._token(edge["read"]) if "read" in edge else edge["note"],
                    _signed(edge["share"]) if "share" in edge else "",
                )
                for edge in edges
            ],
        )
        if self.paths is not None:
            self._show_paths(self.paths)
        if self.coefficients is not None:
            self._show_coefficients(self.coefficients, top)
        value, rest = share.value[0].item(), share.remainder[0].item()
        print(
            f"tokens {_signed(tokens.sum().item())}, remainder {_signed(rest)}, together "
            f"{_signed(tokens.sum().item() + rest)}; {self.target} {_signed(value)}, in float64; "
            f"error {share.error:.0e}"
        )

    def facts(self, top: int) -> dict[str, Any]:
        """The same as JSON, with every token and every layer."""
        share, tokens = self.share, self.share.tokens[0].tolist()
        return {
            "model": escaped(self.opened.loaded.identity),
            "target": escaped(self.target),
            "position": self.position,
            "value": share.value[0].item(),
            "tokens": [
                {"position": at, "token": escaped(name), "share": tokens[at]}
                for at, name in enumerate(self.opened.names[0])
            ],
            "embedding": share.embedding[0].item(),
            "layers": [
                {
                    "name": escaped(name, most=500),
                    "direct": self._direct.get(name),
                    "total": share.total[name][0].item(),
                }
                for name in share.total
            ],
            "edges": share.strongest_edges(top).to_json(),
            "paths": None if self.paths is None else self.paths.to_json(),
            "coefficients": None if self.coefficients is None else self.coefficients.to_json(),
            "remainder": share.remainder[0].item(),
            "sum": share.tokens[0].sum().item() + share.remainder[0].item(),
            "error": share.error,
        }

    def _show_coefficients(self, found: Table, top: int) -> None:
        print_table(
            ("layer", "coefficient", "gradient", "magnitude"),
            [
                (
                    str(record["layer"]),
                    str(record.get("coefficient", record.get("note"))),
                    _signed(record["gradient"]) if "gradient" in record else "",
                    f"{record['magnitude']:.4g}" if "magnitude" in record else "",
                )
                for record in found[:top]
            ],
        )
        print("gradients times coefficients, to first order; they do not sum to the logit")

    def _show_paths(self, paths: Paths) -> None:
        print_table(
            ("from", "over", "share"),
            [
                (
                    self._token(path.token),
                    ", ".join(f"{edge.layer} to {self._token(edge.written)}" for edge in path.edges)
                    or "the residual stream",
                    _signed(path.share),
                )
                for path in paths
            ],
        )
        print(f"these paths {_signed(paths.covered)} of {_signed(paths.total)} from all tokens")

    @property
    def _direct(self) -> dict[str, float]:
        parts = {"embedding": self.share.embedding, **self.share.layers}
        return {name: part[0].item() for name, part in parts.items()}

    def _token(self, at: int) -> str:
        return f"{at} {self.opened.names[0][at]!r}"


def attribute_checkpoint(
    path: str,
    prompt: Prompt,
    tokens: tuple[int | str, int | str | None],
    position: int,
    paths: int,
    threads: ThreadCount,
    options: Options,
    *,
    coefficients: bool = False,
) -> Attributed:
    """Load a checkpoint, run it on the prompt and share a logit among its parts.

    Args:
        paths: how many of the strongest paths are searched for; 0 for none.
        coefficients: whether the gradients in the coefficients of all layers are taken, too.

    Raises:
        LoadError: if the checkpoint is refused.
        ValueError: if the prompt, the position or a token does not suit the model.
        InspectionError: if the model is not affine on this run, or not reproduced.
    """
    words = [token for token in tokens if isinstance(token, str)]
    opened = open_checkpoint(path, prompt, threads, options, others=words)
    place = opened.place(position)
    made = stack(opened.loaded.model, input_ids=opened.ids)
    made = replace(made, tokenizer=opened.loaded.tokenizer)
    share = made.attribute(*tokens, position=place)
    strongest = share.paths(paths) if paths else None
    gradients = share.coefficients() if coefficients else None
    return Attributed(share, opened, target_in_words(tokens), place, strongest, gradients)


def target_in_words(tokens: tuple[int | str, int | str | None]) -> str:
    """What is looked at: a logit, or the difference of two."""
    wanted, against = tokens
    if against is None:
        return f"the logit of {wanted!r}"
    return f"the logit of {wanted!r} less that of {against!r}"


def _signed(number: float) -> str:
    return f"{number:+.4g}"
