"""The model card: what a model was trained on and how, what it answers, and what it is worth.

It holds counts and settings, and no text of any case: the question it shows is made from the
sizes of a video, not taken from the data set.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from medtune.config.stages import ExportStage
from medtune.models.coordinate_format import COORDINATE_FORMATS
from medtune.records.sample import SPLITS, Sample, load_split
from medtune.reporting.html import render_markdown
from medtune.reporting.numbers import NOT_RUN, show
from medtune.runtime.files import VERSIONED
from medtune.tasks import get_task

FAMILY_NAMES = {"qwen2_5_vl": "Qwen2.5-VL", "qwen3_vl": "Qwen3-VL"}
MODES = ("greedy", "sampled", "shuffled")


@dataclass(frozen=True)
class Facts:
    """What a card states beside the configuration.

    Attributes:
        stage: Name of the training stage.
        runs: Manifests of the training stages by name, oldest first.
        counts: See `split_counts`.
        sample: Gives the sizes of the question that is shown, and the frame rate.
        change: See `medtune.release.export.rounding`.
        figures: Content of `eval/metrics.json`, or None.
    """

    stage: str
    runs: Mapping[str, Mapping[str, Any]]
    counts: list[dict[str, Any]]
    sample: Sample
    change: Mapping[str, float]
    figures: Mapping[str, Any] | None


def split_counts(dataset: Path) -> list[dict[str, Any]]:
    """Return rows {source, split, samples, patients} of a data set folder."""
    rows = []
    for split in SPLITS:
        table = load_split(dataset, split, allow_empty=True).select_columns(
            ["source", "patient_id"]
        )
        pairs = list(zip(table["source"], table["patient_id"], strict=True))
        for source in sorted({source for source, _ in pairs}):
            patients = [patient for of, patient in pairs if of == source]
            count = {"samples": len(patients), "patients": len(set(patients))}
            rows.append({"source": source, "split": split} | count)
    return rows


def base_name(stage: ExportStage) -> str:
    """Return what the base model is called: its hub id, its folder's name, or what built it."""
    if stage.model.path is None:
        return f"a tiny random {FAMILY_NAMES[stage.model.family]} made for tests"
    revision = f" (revision {stage.model.revision})" if stage.model.revision else ""
    return (stage.model.path if _is_hub_id(stage) else Path(stage.model.path).name) + revision


def _is_hub_id(stage: ExportStage) -> bool:
    path = stage.model.path
    return path is not None and path.count("/") == 1 and not path.startswith((".", "/", "~"))


def question(stage: ExportStage, sample: Sample) -> str:
    """Return the question about media of a sample's sizes, in the words of the task alone."""
    task = get_task(stage.task)
    shown = sample.model_copy(update={"prompt": task.example(sample)})
    return task.prompt(shown, COORDINATE_FORMATS[stage.model.family])


def _head(stage: ExportStage, facts: Facts) -> str:
    """Return the card's metadata, by the hub's names."""
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        base_model=stage.model.path if _is_hub_id(stage) else None,
        library_name="transformers",
        license=stage.export.license,
        pipeline_tag="image-text-to-text",
        tags=["medical", "video", stage.task.name, facts.stage, "medtune"],
    )
    return str(data.to_yaml())


def _settings(facts: Facts) -> dict[str, str]:
    """Return the settings of every training stage as YAML, by stage."""
    found = {}
    for name, manifest in facts.runs.items():
        settings = {name: manifest["config"][name]}
        if name == "grpo":
            reward = manifest["config"]["reward"]
            own = reward["file"] and Path(reward["file"]).name
            settings["reward"] = reward | {"file": own}
        found[name] = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    return found


def _evaluation(facts: Facts) -> list[list[str]]:
    """Return rows of the table of figures: a metric, a constant answer's, and ours by mode."""
    if facts.figures is None:
        return []
    models = facts.figures["models"]
    own, constant = models.get(facts.stage, {}), models["constant"]["greedy"]
    shown = [constant, *(own.get(mode) for mode in MODES)]
    return [[name, *(_figure(metrics, name) for metrics in shown)] for name in constant]


def _figure(metrics: Mapping[str, Any] | None, name: str) -> str:
    """Return a metric of one mode, or why there is none: it was not run, or fits no case."""
    return NOT_RUN if metrics is None else show(metrics[name])


def model_card(stage: ExportStage, facts: Facts) -> str:
    """Return the card as Markdown with the hub's YAML head."""
    last = facts.runs[facts.stage]
    return render_markdown(
        "card.md.jinja",
        head=_head(stage, facts),
        family=stage.model.family,
        family_name=FAMILY_NAMES[stage.model.family],
        base=base_name(stage),
        stage=facts.stage,
        task=get_task(stage.task),
        unit=COORDINATE_FORMATS[stage.model.family].unit,
        counts=facts.counts,
        runs=facts.runs,
        settings=_settings(facts),
        seed=last["config"]["seed"],
        commit=last["commit"],
        versions={name: last["versions"][name] for name in VERSIONED},
        question=question(stage, facts.sample),
        media=facts.sample.media[0],
        dtype=stage.export.dtype,
        change=facts.change,
        evaluation=_evaluation(facts),
        modes=MODES,
        confidence=stage.evaluation.confidence,
        license=stage.export.license,
    )
