"""The verbs below `medtune config`."""

from pathlib import Path
from typing import Annotated

import typer

config_app = typer.Typer(no_args_is_help=True, help="Show and document configurations.")


@config_app.command("show")
def config_show(path: Annotated[Path, typer.Argument(help="Configuration file.")]) -> None:
    """Print a configuration with every key, its value and its meaning."""
    from medtune.config.docs import resolved
    from medtune.config.experiment import load

    print(resolved(load(path)), end="")


@config_app.command("docs")
def config_docs(folder: Annotated[Path, typer.Argument(help="Usually `config`.")]) -> None:
    """Write the defaults, the JSON schema and the reference page."""
    from medtune.config.docs import write_docs

    write_docs(folder)
