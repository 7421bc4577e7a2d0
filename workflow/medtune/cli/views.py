"""The verb that writes the data set as other trainers load it; see `medtune.dataset.views`."""

from pathlib import Path
from typing import Annotated

import typer

from medtune.cli.options import ConfigOption, Dataset
from medtune.config.stages import ViewsStage, load_stage
from medtune.runtime.files import exclusive_lock


def views(
    config: ConfigOption,
    dataset: Dataset,
    output: Annotated[
        Path | None, typer.Option(help="Folder for the views; the data set's if none is given.")
    ] = None,
    repeat: Annotated[
        bool,
        typer.Option(
            help="Repeat training samples by sft.dataset_weights, for trainers that cannot weigh."
        ),
    ] = False,
) -> None:
    """Write the data set as LLaVA, EasyR1 and Seg-Zero load it."""
    from medtune.config.experiment import load
    from medtune.dataset.views import Repeat, write_views

    stage, folder = load_stage(ViewsStage, config), output or dataset
    repeated = None
    if repeat:
        whole = load(Path(config))
        repeated = Repeat(whole.sft.dataset_weights, whole.seed)
    with exclusive_lock(folder / "views"):
        write_views(stage, dataset, folder, repeated)
