"""Options that verbs share."""

from pathlib import Path
from typing import Annotated

import typer

ConfigOption = Annotated[str, typer.Option("--config", help="Configuration file, or JSON.")]
Dataset = Annotated[Path, typer.Option(help="Folder of the data set.")]
Out = Annotated[Path, typer.Option(help="Output; written atomically.")]
Results = Annotated[Path, typer.Option(help="Folder of the experiment.")]
