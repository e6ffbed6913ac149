"""``dsf attribute``: which tokens, layers and edges made a model give a token its logit."""

from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from dsf.cli import options as shared
from dsf.cli.command import Answer, Run, Work
from dsf.cli.early_checks import check_call, check_file
from dsf.cli.terminal import part, print_table, stage
from dsf.report.escaping import escaped

if TYPE_CHECKING:
    from dsf.attribution import Attribution, Paths, Stack
    from dsf.cli.run_model import Opened
    from dsf.inspection import Inspection


MAX_CUTS = 10
"""Maximum number of tokens that are cut, each in a run of its own."""
MIN_SINK = 0.3
"""Share of a head's weight on the first token, as in dsf.measures.sink_rate."""
MIN_RESTING = 0.1
"""Share of the attention heads that rest on the first token from which it is called a sink."""


class By(StrEnum):
    held = "held"
    direct = "direct"
    gradient = "gradient"


def attribute(
    model: shared.Checkpoint,
    *,
    asked: shared.Asked,
    prompt: shared.Prompt,
    top: shared.Top = 10,
    by: Annotated[
        By,
        "How edges are counted: with all factors held (these sum to the logit), along "
        "residual connections alone, or by gradient: what is lost without them, to first order.",
    ] = By.held,
    agreement: Annotated[
        bool, "Also cut some edges, and say how well their shares predicted what was lost."
    ] = False,
    paths: Annotated[
        int,
        shared.whole_number(
            "Also search for this many of the strongest paths, from a token over edges to the "
            "logit. Takes longer.",
            least=0,
        ),
    ] = 0,
    out: Annotated[
        Path | None,
        shared.typed_by(shared.place, "Write a report that opens on these shares.", metavar="PAGE"),
    ] = None,
    loading: shared.Loading,
) -> Work:
    """Share the logit of a token among the input tokens, layers and edges of MODEL.

    The shares are exact: those of the tokens and the remainder (biases) sum to the logit in
    float64, and so do those of the embedding, the layers and the remainder. An edge is what one
    token reads from another in one layer. All is of this run, with attention weights, decays,
    gates and norms held. What the logit is without a token is another question: the column "cut"
    has by how much it moves where no layer reads the token, for the ten strongest.

    --layers and --heads choose the edges that are listed; the shares are the same.

    A difference says more than a logit: give the token that the model might have said instead as
    --against.

    Example: dsf attribute FOLDER --text "The capital of France is" --target " Paris" --against
    " London"
    """
    tokens = asked.tokens(prompt)
    if tokens is None:
        raise ValueError("--target: expected the token whose logit is explained, got none.")
    check_call(model, prompt, loading).check_asked(asked, prompt)
    if out is not None:
        check_file(out, "--out")

    def work(run: Run) -> Answer:
        from dsf.attribution import stack
        from dsf.cli.run_model import open_checkpoint
        from dsf.inspection.choice import chosen_layers

        words = [token for token in tokens if isinstance(token, str)]
        opened = open_checkpoint(model, prompt, run, loading, others=words)
        at = opened.place(asked.position)
        made = replace(
            stack(opened.loaded.model, input_ids=opened.ids), tokenizer=opened.loaded.tokenizer
        )
        chosen_layers([layer.name for layer in made.inspection], asked.layers)
        chosen = (asked.layers, asked.heads)
        share = replace(made.attribute(*tokens, position=at), _chosen=chosen)
        strongest = share.paths(paths) if paths else None
        predicted = share.agreement() if agreement else None
        name = shared.target_in_words(tokens)
        chances = _probabilities(made, tokens, at, opened)
        sink = _sink(made.inspection)
        order = share.tokens[0].abs().argsort(descending=True, stable=True).tolist()
        cuts = _cuts(order[:MAX_CUTS], tokens, at, opened)
        whole, rest = share.tokens[0].sum().item(), share.remainder[0].item()
        said = ", ".join(f"{token!r} {chance:.2%}" for token, chance in chances.items())
        if out is not None:
            from dsf.report import show as write_page

            texts = tuple(map(tuple, opened.names))
            write_page(
                replace(made.inspection, model=opened.loaded.identity, tokens=texts),
                out,
                facts={"After token": opened.token(at), "Probability": said, "Target": name},
                attribution=share,
                target=name,
                paths=strongest,
                agreement=predicted,
                cuts=cuts,
            )

        def show() -> None:
            print(f"after token {opened.token(at)}: {said}")
            print(f"{name}: {share.value[0].item():+.4g}")
            _show_shares(share, opened, top, by, cuts)
            if sink:
                print(f"token {opened.token(0)} is an attention sink: {sink}")
            if strongest is not None:
                _show_paths(strongest, opened)
            if predicted is not None:
                print(predicted)
            print(
                f"tokens {whole:+.4g}, remainder {rest:+.4g}, together {whole + rest:+.4g}; "
                f"{name} {share.value[0].item():+.4g}, in float64; error {share.error:.0e}"
            )
            if out is not None:
                print(out)

        direct = _direct(share)
        facts = {
            "model": escaped(opened.loaded.identity),
            "target": escaped(name),
            "position": at,
            "probabilities": chances,
            "sink": sink,
            "value": share.value[0].item(),
            "tokens": [
                {"position": at, "token": name, "share": each, "cut": cuts.get(at)}
                for at, (name, each) in enumerate(
                    zip(opened.names[0], share.tokens[0].tolist(), strict=True)
                )
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
            "remainder": rest,
            "sum": whole + rest,
            "error": share.error,
            "page": None if out is None else str(out),
            "paths": None if strongest is None else strongest.to_json(),
            "agreement": None if predicted is None else predicted.to_json(),
        }
        return Answer(facts=facts, show=show, notes=opened.notes)

    return work


def _probabilities(
    made: "Stack", tokens: shared.Target, position: int, opened: "Opened"
) -> dict[str, float]:
    """The probability of every token that was asked about, as the model has it."""
    logits: Any = made.logits
    row = logits[0, position] if logits.ndim > 2 else logits[0]
    chances, tokenizer = row.double().softmax(dim=-1), opened.loaded.tokenizer
    return {
        str(token): chances[
            token
            if isinstance(token, int) or tokenizer is None
            else tokenizer.encode(token, add_special_tokens=False)[0]
        ].item()
        for token in tokens
        if token is not None
    }


def _cuts(
    cut: list[int], tokens: shared.Target, position: int, opened: "Opened"
) -> dict[int, float]:
    """By how much the logit moves where no layer reads a token, for each that is ``cut``.

    Empty where an edit does not suit the model, such as one that mixes no tokens by a map.
    """
    from dsf.inspection.errors import InspectionError
    from dsf.interventions import sweep
    from dsf.interventions.edits import Cut

    stage("cutting tokens")
    try:
        effects = sweep(
            opened.loaded.model,
            input_ids=opened.ids,
            tokenizer=opened.loaded.tokenizer,
            edits=[Cut("*", key=token) for token in cut],
            target=tokens[0],
            against=tokens[1],
            position=position,
            progress=partial(part, "cutting tokens"),
        )
    except InspectionError:
        return {}
    return dict(zip(cut, effects[:, 0].tolist(), strict=True))


def _sink(inspection: "Inspection") -> str:
    """How many heads rest on the first token, in words; empty where they are few."""
    from dsf.measures import sink_mass
    from dsf.mixers import SoftmaxAttention

    shares = [
        share
        for layer in inspection
        if isinstance(layer.mixer, SoftmaxAttention)
        for share in sink_mass(layer.system).flatten().tolist()
    ]
    resting, heads = sum(share > MIN_SINK for share in shares), len(shares)
    if not resting or resting < MIN_RESTING * heads:
        return ""
    return f"{resting} of {heads} heads rest on it, with more than {MIN_SINK:.0%} of their weight"


def _direct(share: "Attribution") -> dict[str, float]:
    parts = {"embedding": share.embedding, **share.layers}
    return {name: part[0].item() for name, part in parts.items()}


def _show_shares(
    share: "Attribution", opened: "Opened", top: int, by: By, cuts: dict[int, float]
) -> None:
    """Tables of tokens, layers and edges, each from the largest magnitude on."""
    tokens, direct = share.tokens[0], _direct(share)
    rows = [
        (opened.token(at), f"{tokens[at].item():+.4g}", f"{cuts[at]:+.4g}" if at in cuts else "")
        for at in tokens.abs().argsort(descending=True, stable=True).tolist()[:top]
    ]
    print_table(("token", "share", "cut"), rows)
    total = {name: part[0].item() for name, part in share.total.items()}
    sizes = {name: abs(total.get(name, direct.get(name, 0.0))) for name in {**direct, **total}}
    layers = [
        (name, *(f"{part[name]:+.4g}" if name in part else "" for part in (direct, total)))
        for name in sorted(sizes, key=lambda name: -sizes[name])[:top]
    ]
    print_table(("layer", "direct", "total"), layers)
    if len(sizes) > top:
        print(f"{len(sizes) - top} more layers: --top, or --json for all")
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
