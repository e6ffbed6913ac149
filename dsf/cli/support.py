"""``dsf support``: what every token mixer of a model becomes, without running it."""

from typing import Annotated

import typer

from dsf.cli.command import LIMIT, WELL, Answer, Run, Work
from dsf.cli.model_argument import check_model
from dsf.cli.options import Layers, Offline, Revision
from dsf.report.escaping import escaped


def support(
    model: Annotated[
        str, typer.Argument(help="Folder with a config.json, or a hub id owner/name.")
    ],
    *,
    layers: Layers = None,
    revision: Revision = None,
    offline: Offline = False,
) -> Work:
    """List every token mixer of MODEL: its class, what it is read as, and whether exactly.

    Needs the settings alone: no weights are loaded and nothing is run.
    """
    check_model(model, offline=offline, revision=revision, needs_weights=False)

    def work(_: Run) -> Answer:
        from dsf.cli.terminal import print_table
        from dsf.inspection.support_table import EXACT, NO
        from dsf.inspection.support_table import support as find_mixers

        found = find_mixers(model, layers=layers, offline=offline, revision=revision)
        exact = [one for one in found if one.exact == EXACT]

        def show() -> None:
            rows = [(one.name, one.kind, one.mixer, one.exact, one.how) for one in found]
            print_table(("module", "class", "read as", "exact", "how"), rows)
            print(f"{len(found)} token mixers, {len(exact)} read exactly")

        listed = [{name: escaped(part) for name, part in vars(one).items()} for one in found]
        is_read = any(one.exact != NO for one in found)
        facts = {"model": escaped(model), "mixers": listed}
        return Answer(facts=facts, show=show, code=WELL if is_read else LIMIT)

    return work
