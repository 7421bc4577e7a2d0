"""Conversion of one shard of cases, the work of one job."""

from collections.abc import Sequence
from pathlib import Path

from medtune.console import track
from medtune.files import read_json
from medtune.media.convert import convert_case
from medtune.sources import KINDS
from medtune.sources.base import Case
from medtune.stages import ConvertStage
from medtune.tables import write_records


def convert_shard(
    stage: ConvertStage, cases: Sequence[Case], verification: Path, output: Path
) -> None:
    """Write the videos of a shard's accepted cases, then `output`, the table of the shard.

    Videos go to `<folder of output>/<source>/<case>.mp4`.
    """
    accepted = set(read_json(verification)["accepted"])
    kinds = {source.name: KINDS[source.kind] for source in stage.sources}
    chosen = [case for case in cases if case.id in accepted]
    converted = [
        convert_case(
            case,
            kinds[case.source].labels,
            stage.task.region,
            stage.media,
            output.parent / case.source,
        )
        for case in track(chosen, "convert cases")
    ]
    write_records(output, converted)
