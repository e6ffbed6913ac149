"""``dsf attribute``: which tokens, layers and edges made a model give a token its logit."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsf.cli.command import Answer, Run, Work
from dsf.cli.model_argument import check_call
from dsf.cli.options import (
    Checkpoint,
    Heads,
    Layers,
    Loading,
    Position,
    Prompt,
    Top,
    check_position,
    target_in_words,
    targets,
    whole_number,
)
from dsf.cli.terminal import print_table
from dsf.report.escaping import escaped

if TYPE_CHECKING:
    from dsf.attribution import Attribution, Paths
    from dsf.cli.run_model import Opened
    from dsf.inspection.results.table import Table


class By(StrEnum):
    """How edges are counted."""

    held = "held"
    direct = "direct"
    gradient = "gradient"


def attribute(
    model: Checkpoint,
    *,
    target: Annotated[
        str,
        typer.Option(
            help='The token whose logit is explained: its text, such as " Paris" with its space, '
            "or with --ids its number."
        ),
    ],
    against: Annotated[
        str | None,
        typer.Option(help="A second token; then the difference of the two logits is explained."),
    ] = None,
    prompt: Prompt,
    position: Position = -1,
    top: Top = 10,
    by: Annotated[
        By,
        typer.Option(
            help="How edges are counted: with all factors held (these sum to the logit), along "
            "residual connections alone, or by gradient: what is lost without them, to first order."
        ),
    ] = By.held,
    agreement: Annotated[
        bool,
        typer.Option(
            "--agreement",
            help="Also cut some edges, and say how well their shares predicted what was lost.",
        ),
    ] = False,
    paths: Annotated[
        int,
        whole_number(
            "Also search for this many of the strongest paths, from a token over edges to the "
            "logit. Takes longer.",
            least=0,
        ),
    ] = 0,
    coefficients: Annotated[
        bool,
        typer.Option(
            "--coefficients",
            help="Also show by how much every query, key, step or decay of a layer moves the "
            "logit: gradients, which are not parts of a sum.",
        ),
    ] = False,
    layers: Layers = None,
    heads: Heads = None,
    loading: Loading,
) -> Work:
    """Share the logit of a token among the input tokens, layers and edges of MODEL.

    The shares are exact: those of the tokens and the remainder (biases) sum to the logit in
    float64, and so do those of the embedding, the layers and the remainder. An edge is what one
    token reads from another in one layer. All is of this run, with attention weights, decays,
    gates and norms held; "dsf intervene" asks what happens without an edge.

    --layers and --heads choose the edges that are listed; the shares are the same.

    A difference says more than a logit: give the token that the model might have said instead as
    --against.

    Example: dsf attribute FOLDER --text "The capital of France is" --target " Paris" --against
    " London"
    """
    tokens = targets(target, against, by_number=prompt.ids is not None)
    facts = check_call(model, prompt, loading)
    check_position(position, prompt.length)
    facts.check_targets(tokens)

    def work(run: Run) -> Answer:
        from dsf.attribution import attribute as find_shares
        from dsf.cli.run_model import open_checkpoint

        words = [token for token in tokens if isinstance(token, str)]
        opened = open_checkpoint(model, prompt, run.threads, loading, others=words)
        at = opened.place(position)
        share = find_shares(
            opened.loaded.model,
            input_ids=opened.ids,
            tokenizer=opened.loaded.tokenizer,
            target=tokens[0],
            against=tokens[1],
            position=at,
            layers=layers,
            heads=heads,
        )
        strongest = share.paths(paths) if paths else None
        gradients = share.coefficients() if coefficients else None
        predicted = share.agreement() if agreement else None
        name = target_in_words(tokens)

        def show() -> None:
            print(f"{name} after token {opened.token(at)}")
            _show_shares(share, opened, top, by)
            if strongest is not None:
                _show_paths(strongest, opened)
            if gradients is not None:
                _show_coefficients(gradients, top)
            if predicted is not None:
                print(predicted)
            whole, rest = share.tokens[0].sum().item(), share.remainder[0].item()
            print(
                f"tokens {whole:+.4g}, remainder {rest:+.4g}, together {whole + rest:+.4g}; "
                f"{name} {share.value[0].item():+.4g}, in float64; error {share.error:.0e}"
            )

        facts = {
            "model": escaped(opened.loaded.identity),
            "target": escaped(name),
            "position": at,
            **_share_facts(share, opened, top, by),
            "paths": None if strongest is None else strongest.to_json(),
            "coefficients": None if gradients is None else gradients.to_json(),
            "agreement": None
            if predicted is None
            else {way: predicted.spearman(way) for way in ("held", "gradient")},
        }
        return Answer(facts=facts, show=show, notes=opened.notes)

    return work


def _share_facts(share: "Attribution", opened: "Opened", top: int, by: By) -> dict[str, Any]:
    """Every token and every layer, and the strongest edges."""
    tokens, direct = share.tokens[0], _direct(share)
    return {
        "value": share.value[0].item(),
        "tokens": [
            {"position": at, "token": escaped(name), "share": part}
            for at, (name, part) in enumerate(zip(opened.names[0], tokens.tolist(), strict=True))
        ],
        "embedding": share.embedding[0].item(),
        "layers": [
            {
                "name": escaped(name, most=500),
                "direct": direct.get(name),
                "total": total[0].item(),
            }
            for name, total in share.total.items()
        ],
        "edges": share.strongest_edges(top, by=by.value).to_json(),
        "remainder": share.remainder[0].item(),
        "sum": tokens.sum().item() + share.remainder[0].item(),
        "error": share.error,
    }


def _direct(share: "Attribution") -> dict[str, float]:
    parts = {"embedding": share.embedding, **share.layers}
    return {name: part[0].item() for name, part in parts.items()}


def _show_shares(share: "Attribution", opened: "Opened", top: int, by: By) -> None:
    """Tables of tokens, layers and edges."""
    tokens, direct = share.tokens[0], _direct(share)
    strongest = tokens.abs().argsort(descending=True, stable=True)[:top].tolist()
    rows = [(opened.token(at), f"{tokens[at].item():+.4g}") for at in strongest]
    print_table(("token", "share"), rows)
    total = {name: part[0].item() for name, part in share.total.items()}
    layers = [
        (name, *(f"{part[name]:+.4g}" if name in part else "" for part in (direct, total)))
        for name in dict.fromkeys((*direct, *total))
    ]
    print_table(("layer", "direct", "total"), layers)
    edges = [
        (
            edge["layer"],
            opened.token(edge["query"]) if "query" in edge else "",
            opened.token(edge["key"]) if "key" in edge else edge["note"],
            f"{edge['share']:+.4g}" if "share" in edge else "",
        )
        for edge in share.strongest_edges(top, by=by.value)
    ]
    print_table(("layer", "query", "key", "share"), edges)


def _show_paths(paths: "Paths", opened: "Opened") -> None:
    rows = []
    for path in paths:
        over = ", ".join(f"{edge.layer} to {opened.token(edge.query)}" for edge in path.edges)
        rows.append((opened.token(path.token), over or "the residual stream", f"{path.share:+.4g}"))
    print_table(("from", "over", "share"), rows)
    print(f"these paths {paths.covered:+.4g} of {paths.total:+.4g} from all tokens")


def _show_coefficients(found: "Table", top: int) -> None:
    rows = [
        (
            str(record["layer"]),
            str(record.get("coefficient", record.get("note"))),
            f"{record['gradient']:+.4g}" if "gradient" in record else "",
            f"{record['magnitude']:.4g}" if "magnitude" in record else "",
        )
        for record in found[:top]
    ]
    print_table(("layer", "coefficient", "gradient", "magnitude"), rows)
    print("gradients times coefficients, to first order; they do not sum to the logit")
