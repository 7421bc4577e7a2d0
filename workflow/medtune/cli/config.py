"""The verbs below `medtune config`."""

from pathlib import Path
from typing import Annotated

import typer

config_app = typer.Typer(no_args_is_help=True, help="Check and document configurations.")


@config_app.command("format")
def config_format(
    paths: Annotated[list[Path], typer.Argument(help="Configuration files.")],
) -> None:
    """Rewrite configuration files with every key and its documentation."""
    from medtune.config.docs import format_file

    for path in paths:
        format_file(path)


@config_app.command("docs")
def config_docs(folder: Annotated[Path, typer.Argument(help="Usually `config`.")]) -> None:
    """Write the JSON schema and the reference page."""
    from medtune.config.docs import write_docs

    write_docs(folder)
