"""Options that several commands share: which model is opened, and what it is given."""

from pathlib import Path
from typing import Annotated

import typer

Checkpoint = Annotated[
    str, typer.Argument(help="Folder of a checkpoint, a GGUF file, or a hub id owner/name.")
]
Text = Annotated[str | None, typer.Option(help="Text for the model's own tokenizer.")]
Ids = Annotated[str | None, typer.Option(help='Token numbers, such as "1 2 3"; for any model.')]
TextFile = Annotated[
    Path | None, typer.Option(help="A UTF-8 file to take the text from.", readable=False)
]
NumberType = Annotated[
    str | None,
    typer.Option(help="Number type of the weights: float32, bfloat16, float16, float64."),
]
Offline = Annotated[bool, typer.Option("--offline", help="Make no network connection.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.")]
Layers = Annotated[
    str | None,
    typer.Option(help='Which layers: "0:4", "2,5", a name or a pattern such as "*.3.*".'),
]
Heads = Annotated[
    str | None, typer.Option(help='Which heads, or channels, of each layer: "2" or "0:4".')
]
