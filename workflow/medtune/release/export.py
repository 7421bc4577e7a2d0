"""A trained model as a folder that others can load: rounded, checked by reloading, described."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medtune.config.stages import ExportStage
from medtune.models.coordinate_format import COORDINATE_FORMATS
from medtune.models.loading import check_folder, load_model, load_processor
from medtune.models.positions import correct_positions
from medtune.models.torchvision_ops import declare_missing_ops
from medtune.records.sample import iterate, load_split, to_row
from medtune.release.card import Facts, model_card, split_counts
from medtune.release.predict import main as predict
from medtune.runtime.console import log
from medtune.runtime.errors import ConfigError, DataError, ModelError
from medtune.runtime.files import (
    MANIFEST,
    atomic_folder,
    check_manifest,
    read_json,
    sha256,
    write_manifest,
    write_text,
)
from medtune.tasks import get_task
from medtune.training.batches import IGNORED, SftCollator

CARD = "README.md"
SHARD_SIZE = "5GB"
# Largest mean change of an answer token's log-probability (nats) that rounding may make.
ROUNDING_BOUND = 0.1


def export_model(
    stage: ExportStage, model: Path, dataset: Path, metrics: Path | None, output: Path
) -> None:
    """Write the model of a training stage as a folder to hand on.

    It holds the weights in `export.dtype` as safetensors, processor, chat template, special tokens
    for generation, a model card and, last, a manifest. Before it takes its place it is loaded
    anew, without medtune's loader, and compared on the first video of the test split.

    Args:
        stage: The configuration.
        model: Folder of the stage `sft` or `grpo` (its manifest is checked).
        dataset: Folder of the data set (its manifest is checked).
        metrics: `eval/metrics.json`, or None if there is none: the card then says "not run".
        output: Folder; replaced as a whole.

    Raises:
        ModelError: The written folder computes something else than the stage's model, or rounding
            changes its answers beyond `ROUNDING_BOUND`.
        DataError: A parent of the model was changed since.
    """
    check_manifest(dataset / MANIFEST)
    runs = lineage(model / MANIFEST)
    trained = list(runs)[-1]
    check_same(stage, model, runs[trained]["config"])
    sample = next(iterate(load_split(dataset, "test")))
    task, dialect = get_task(stage.task), COORDINATE_FORMATS[stage.model.family]

    def inputs(folder: Path) -> dict[str, Any]:
        return SftCollator(load_processor(folder), task, dialect, dataset)([to_row(sample)])

    # Flash attention has no float32, in which the change by rounding is measured.
    exactly = stage.model.model_copy(update={"attn_implementation": "sdpa"})
    batch = inputs(model)
    exact = answer_logits(load_model(model, exactly), batch)
    with atomic_folder(output) as temporary:
        rounded = load_model(model, exactly, stage.export.dtype)
        rounded.save_pretrained(temporary, max_shard_size=SHARD_SIZE)
        load_processor(model).save_pretrained(temporary)
        own = answer_logits(rounded, batch)
        del rounded
        check_folder(temporary, stage.model.family)
        check_reload(temporary, own, batch, inputs(temporary))
        change = rounding(own, exact, batch)
        facts = Facts(
            stage=trained,
            runs=runs,
            counts=split_counts(dataset),
            sample=sample,
            change=change,
            figures=None if metrics is None else read_json(metrics),
        )
        write_text(temporary / CARD, model_card(stage, facts))
        write_loader(temporary)
        files = [path for path in temporary.rglob("*") if path.is_file()]
        parents = [dataset / MANIFEST, model / MANIFEST, *([metrics] if metrics else [])]
        known = {"rounding": change, "seen": runs[trained]["seen"]}
        write_manifest(
            temporary, files, stage.model_dump(mode="json"), parents, stage="export", **known
        )
    log(f"exported: {output}")


def write_loader(folder: Path) -> None:
    """Write what answers with a folder's model where medtune is not installed: `predict.py`."""
    for function in (predict, correct_positions, declare_missing_ops):
        source = Path(inspect.getfile(function))
        text = source.read_text(encoding="utf-8").replace("from medtune.models.", "from ")
        write_text(folder / source.name, text)


def lineage(manifest: Path) -> dict[str, dict[str, Any]]:
    """Return the manifests of a trained model and of those it was trained from, oldest first.

    They are named `sft` and `grpo`, whatever their folders are called.

    Raises:
        DataError: One of them was changed or lost since the next was trained from it.
    """
    last = check_manifest(manifest)
    runs = {"grpo" if "grpo" in last["config"] else "sft": last}
    for path, digest in last["parents"].items():
        parent = Path(path)
        if not parent.is_file() or sha256(parent) != digest:
            raise DataError(parent, f"is not what {manifest} was made from", "rerun its stage")
        if "step" in read_json(parent):
            runs = lineage(parent) | runs
    return runs


def check_same(stage: ExportStage, model: Path, trained: Mapping[str, Any]) -> None:
    """Check that a model was trained for this task and from this base model.

    Raises:
        ConfigError: The configuration says otherwise: the card would not tell the truth.
    """
    for name in ("task", "model"):
        own = getattr(stage, name)
        if type(own).model_validate(trained[name]) != own:
            raise ConfigError(
                name, f"differs from what {model} was trained with", "give its configuration"
            )


def answer_logits(model: Any, batch: dict[str, Any]) -> Any:
    """Return the logits (answer tokens, vocabulary), float32 on the CPU, of one sample's answer.

    Args:
        model: The model; it is moved to the GPU if there is one.
        batch: Batch of one sample, as `SftCollator` makes it.
    """
    import torch

    model.to("cuda" if torch.cuda.is_available() else "cpu")
    inputs = {name: value.to(model.device) for name, value in batch.items() if name != "labels"}
    count = int((batch["labels"] != IGNORED).sum())
    with torch.no_grad():
        logits = model(**inputs, logits_to_keep=count + 1).logits
    return logits[0, :-1].float().cpu()


def check_reload(folder: Path, own: Any, batch: dict[str, Any], again: dict[str, Any]) -> None:
    """Check that a folder, loaded by transformers alone, computes what the stage's model does.

    Args:
        folder: The written folder.
        own: Logits of the stage's model in the folder's precision.
        batch: The inputs they were computed from.
        again: The same inputs as made by the folder's own processor.

    Raises:
        ModelError: Inputs or logits differ in a single bit.
    """
    from transformers import AutoModelForImageTextToText

    for name, value in batch.items():
        if not value.equal(again[name]):
            raise ModelError(folder, f"its processor makes other {name}", "report this as a bug")
    model = AutoModelForImageTextToText.from_pretrained(str(folder)).eval()
    correct_positions(model)
    found = answer_logits(model, again)
    if not found.equal(own):
        raise ModelError(
            folder,
            f"loaded anew its logits differ by up to {(found - own).abs().max():.3g}, expected 0",
            "report this as a bug; nothing was written",
        )


def rounding(own: Any, exact: Any, batch: dict[str, Any]) -> dict[str, float]:
    """Return what rounding the weights changes in the gold answer of a sample.

    Args:
        own: Logits (tokens, vocabulary) of the rounded model, which computes in its precision.
        exact: The same of the float32 model.
        batch: Batch of the sample.

    Returns:
        `tokens`: tokens of the answer; `logit`: largest change of a logit; `logp_max` and
        `logp_mean`: largest and mean change of the log-probability of the answer's tokens, nats.

    Raises:
        ModelError: The mean change is beyond `ROUNDING_BOUND`, or not a number.
    """
    answer = batch["labels"][batch["labels"] != IGNORED]
    first, second = (x.log_softmax(-1).gather(1, answer[:, None]) for x in (own, exact))
    logp = (first - second).abs()
    change = {
        "tokens": len(answer),
        "logit": float((own - exact).abs().max()),
        "logp_max": float(logp.max()),
        "logp_mean": float(logp.mean()),
    }
    if not change["logp_mean"] <= ROUNDING_BOUND:
        raise ModelError(
            "export.dtype",
            f"rounding changes an answer's log-probabilities by {change['logp_mean']:.3g} on "
            f"average, more than {ROUNDING_BOUND}",
            "set export.dtype: float32",
        )
    return change
