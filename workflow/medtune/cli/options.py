"""Options that verbs share, and what keeps two processes from writing one output."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from medtune import __version__
from medtune.runtime.console import RANK
from medtune.runtime.files import exclusive_lock

ConfigOption = Annotated[str, typer.Option("--config", help="Configuration file, or JSON.")]
Dataset = Annotated[Path, typer.Option(help="Folder of the data set.")]
Out = Annotated[Path, typer.Option(help="Output; written atomically.")]
Results = Annotated[Path, typer.Option(help="Folder of the experiment.")]
Verb = Callable[..., None]


def writes(option: str) -> Callable[[Verb], Verb]:
    """Make a verb refuse to run while another process writes what this option names."""

    def decorate(verb: Verb) -> Verb:
        @wraps(verb)
        def run(**given: Any) -> None:
            with exclusive_lock(given[option]) if RANK == 0 else nullcontext():
                verb(**given)

        return run

    return decorate


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"medtune {__version__}")
        raise typer.Exit


def version_option(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Take the options that stand before a verb."""
