"""Verbs for people, which no rule calls: they check, plan and show."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from medtune.config.films import FilmsConfig

from medtune.config.data import NiftiForm
from medtune.runtime.console import log


def check(config: Annotated[Path, typer.Option(help="Configuration file.")]) -> None:
    """Check, before anything runs, that sources and base model are there."""
    from medtune.config.experiment import load
    from medtune.orchestration.preflight import check_experiment

    check_experiment(load(config))
    log(f"{config}: configuration, sources and base model are in order")


def plan(
    config: Annotated[Path, typer.Option(help="Configuration file.")],
    results: Annotated[
        Path | None, typer.Option(help="Folder of the experiment; else results/<experiment>.")
    ] = None,
    gpu_memory: Annotated[
        float | None, typer.Option(help="GiB of one GPU; else that of the GPU that is here.")
    ] = None,
    processes: Annotated[int, typer.Option(help="Processes that share the model.", min=1)] = 1,
    zero: Annotated[int, typer.Option(help="ZeRO stage: 0, 2 or 3.", min=0, max=3)] = 0,
    probe: Annotated[bool, typer.Option("--probe", help="Measure the time of real steps.")] = False,
    json: Annotated[Path | None, typer.Option(help="Where to write the plan as JSON.")] = None,
) -> None:
    """Say what training will need: tokens, memory by part, steps; refuse what cannot fit."""
    import medtune.planning  # noqa: F401  (declares operators before transformers is imported)
    from medtune.config.experiment import load
    from medtune.planning.memory import ShardingPlan
    from medtune.planning.plan import GIB, fits, gpu_bytes, make_plan, refuse, show, show_time
    from medtune.runtime.files import write_json

    loaded = load(config)
    memory = gpu_bytes() if gpu_memory is None else int(gpu_memory * GIB)
    folder = results or Path("results") / loaded.experiment
    made = make_plan(loaded, folder, memory, ShardingPlan(processes=processes, zero=zero))
    show(loaded, made)
    if probe and fits(made):
        from medtune.planning.probe import probe as measure

        show_time(made, measure(loaded, folder))
    else:
        log("time: not measured" + ("" if probe else " (use --probe)"))
    if json:
        write_json(json, made)
    refuse(made)


def summary(results: Annotated[Path, typer.Argument(help="Folder of the experiment.")]) -> None:
    """Print where the report is and its main figures."""
    from medtune.reporting.key_results import print_headline

    print_headline(results)


def compare(
    first: Annotated[
        str,
        typer.Argument(help="RESULTS:MODEL, e.g. results/demo:sft; several seeds: with commas."),
    ],
    second: Annotated[str, typer.Argument(help="The same for what it is compared with.")],
    mode: Annotated[
        str, typer.Option(help="greedy, sampled, shuffled, best_of_n or majority.")
    ] = "greedy",
    json: Annotated[Path | None, typer.Option(help="Where to write the figures as JSON.")] = None,
) -> None:
    """Compare two stages, experiments or groups of seeds, case by case."""
    from medtune.evaluation.compare import compare as run
    from medtune.evaluation.compare import show
    from medtune.runtime.files import write_json

    found = run(first.split(","), second.split(","), mode)
    show(found)
    if json:
        write_json(json, found)


def lineage(
    path: Annotated[
        Path, typer.Argument(help="A model, data set, table, video, figure or report.")
    ],
    files: Annotated[
        bool, typer.Option("--files", help="Read the raw files again, and list them.")
    ] = False,
) -> None:
    """Show where an artifact comes from, back to the raw files; exit with 1 at a difference."""
    from medtune.orchestration.lineage import show_lineage

    if not show_lineage(path, files):
        log("error: what is marked differs from what was recorded\n  -> rerun its stage")
        raise typer.Exit(1)


def status(
    config: Annotated[Path, typer.Option(help="Configuration file.")] = Path("config/config.yaml"),
) -> None:
    """Say what is done, running or failed, how far it is and where its log lies."""
    from medtune.config.experiment import load
    from medtune.orchestration.status import show_status

    show_status(load(config))


def predict_case(
    config: Annotated[Path, typer.Option(help="Configuration that the model was trained with.")],
    model: Annotated[Path, typer.Option(help="Model folder, of an experiment or exported.")],
    output: Annotated[Path, typer.Option(help="Folder for the answer; replaced as a whole.")],
    case: Annotated[
        Path | None, typer.Argument(help="Folder of a case, in any layout of a source.")
    ] = None,
    case_id: Annotated[str | None, typer.Option(help="Which case, if there are several.")] = None,
    image: Annotated[
        list[str] | None, typer.Option(help="Instead: modality=path, once for each file there is.")
    ] = None,
    nifti_form: Annotated[
        NiftiForm | None,
        typer.Option(help="Which form of a NIfTI header holds where both differ."),
    ] = None,
) -> None:
    """Answer one case by hand: JSON in three frames of reference, a picture, the box as NIfTI."""
    from medtune import api
    from medtune.runtime.errors import ConfigError
    from medtune.runtime.files import exclusive_lock, read_json

    loaded = api.load(config)
    if (case is None) == (not image):
        raise ConfigError("predict-case", "got folder and --image, or neither", "give one of them")
    if case is not None:
        chosen = api.find_case(case, loaded.media.modalities, case_id, nifti_form)
    else:
        pairs = [text.partition("=") for text in image or []]
        if not all(name and path for name, _, path in pairs):
            raise ConfigError("--image", f"is {image}", "write modality=path, as t2f=flair.nii.gz")
        files = {name: Path(path) for name, _, path in pairs}
        chosen = api.case_of_images(files, case_id or "images", nifti_form)
    with exclusive_lock(output):
        (answer,) = api.predict_cases(loaded, model, [chosen])
        answer.write(output)
    said = read_json(output / "answer.json")
    log(f"{answer.case.id}: {said['text']}")
    log(f"answer: {output / 'answer.json'}" if said["valid"] else f"not valid: {said['reason']}")


def show(
    results: Annotated[Path, typer.Argument(help="Folder of the experiment.")],
    name: Annotated[str, typer.Argument(help="A sample's id, or its case's name.")],
    output: Annotated[Path, typer.Option(help="Picture (PNG).")] = Path("case.png"),
) -> None:
    """Draw the truth of a test case, and every model's greedy answer to it."""
    from medtune import api
    from medtune.evaluation.show import COLORS, read_task
    from medtune.models.coordinate_format import IMAGE_COORDINATE_FORMATS
    from medtune.runtime.files import atomic_path

    sample, task = api.find_sample(results, name), read_task(results)
    answers = api.greedy_answers(results, sample)
    picture, frames = api.draw_case(sample, list(answers.values()), results / "datasets", task)
    with atomic_path(output) as temporary:
        picture.save(temporary)
    log(f"truth (green): {task.truth_shown(sample)[0]}")
    for number, (model, row) in enumerate(answers.items()):
        reason = task.judge(row["text"], sample, IMAGE_COORDINATE_FORMATS[row["family"]]).reason
        invalid = f"  not valid: {reason}" if reason else ""
        log(f"{model} ({COLORS[number % len(COLORS)]}): {row['text']}{invalid}")
    log(f"frames {', '.join(map(str, frames))}: {output}")


def verify(
    config: Annotated[Path, typer.Option(help="Configuration file.")],
    output: Annotated[
        Path, typer.Option(help="Folder for index, findings (also as CSV and pages) and summary.")
    ],
) -> None:
    """Check the raw files of all sources, before anything else is done with them."""
    from medtune.config.experiment import load
    from medtune.dataset.film_splits import expect_splits
    from medtune.reporting.qc import write_finding_pages
    from medtune.sources.chest.index import write_index as index_films
    from medtune.sources.index import read_left_out, read_shard, write_index
    from medtune.sources.verify import expect_case_splits, gather, verify_shard

    loaded = load(config)
    if loaded.films:
        films, table = loaded.films, output / "findings.parquet"
        index_films(
            films.sources, films.verification, output / "films", table, output / "verification.json"
        )
        expect_splits(films, loaded.seed, output / "films")
        _verify_files(films, output)
        return
    index, checked = output / "cases.parquet", output / "checked.parquet"
    write_index(loaded.sources, index)
    cases, rules = read_shard(index, 0, 10**9), loaded.verification
    verify_shard(cases, loaded.sources, rules, checked, loaded.media.modalities)
    found, summary_file = output / "findings.parquet", output / "verification.json"
    region, rest = loaded.task.region, read_left_out(index)
    publish = partial(write_finding_pages, folder=output / "qc")
    gather([checked], loaded.splits, rules, found, summary_file, region, rest, publish)
    expect_case_splits(checked, summary_file, loaded.splits, loaded.seed)


def _verify_files(films: "FilmsConfig", output: Path) -> None:
    """Look at the files of all films of an index."""
    from medtune.runtime.tables import read_rows
    from medtune.sources.chest.film_headers import gather_looks, look_at_shards
    from medtune.sources.chest.index import image_folder

    roots = {source.name: image_folder(source) for source in films.sources}
    shards = []
    for path in sorted((output / "films").glob("*.parquet")):
        root = roots[read_rows(path)[0]["source"]]
        shards.append((path, root, output / "verified" / path.name))
    look_at_shards(shards)
    looks = [written for _, _, written in shards]
    gather_looks(looks, films.images, output / "image_findings.parquet", output / "images.json")


def push(
    config: Annotated[Path, typer.Option(help="Configuration file.")],
    folder: Annotated[Path, typer.Option(help="Folder written by `export`.")],
) -> None:
    """Upload an exported folder to the hub, if `export.push` allows it."""
    from medtune.config.stages import PushStage, load_stage
    from medtune.release.push import push as run

    run(load_stage(PushStage, str(config)), folder)


def dvc_check() -> None:
    """Check, before DVC records results, that jobs of the workflow have written them."""
    from medtune.orchestration.dvc import check_written

    check_written()
