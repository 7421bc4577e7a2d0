"""How a model is shown its media: recorded where it is trained, compared where it answers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medtune.models.loading import load_processor
from medtune.records.sample import Sample
from medtune.runtime.errors import VisionError
from medtune.runtime.files import canonical_json, sha256_text

# Of a saved configuration, what says nothing of pixels.
VOLATILE = ("version", "_name_or_path", "dtype", "_attn_implementation", "_class", "_type")


def vision_record(folder: Path, sample: Sample) -> dict[str, Any]:
    """Return how a model is shown media, as JSON values.

    `processor` (with the chat template) and `vision` (the tower) are hashes of settings; the
    others say how frames were made of volumes.

    Args:
        folder: Model folder.
        sample: Any sample that it is shown.
    """
    from transformers import AutoConfig

    processor = load_processor(folder)
    parts = [processor.image_processor, processor.video_processor]
    shown = [*(_settings(part.to_dict()) for part in parts), processor.chat_template]
    tower = AutoConfig.from_pretrained(folder).vision_config
    geometry, meta = sample.geometry, sample.meta
    return {
        "processor": sha256_text(canonical_json(shown)),
        "vision": sha256_text(_settings(tower.to_dict())),
        "fps": sample.media[0].fps,
        "layout": geometry.get("layout"),
        "stride": geometry.get("stride"),
        "modalities": meta.get("modalities"),
        "window": meta.get("window"),
    }


def _settings(values: Mapping[str, Any]) -> str:
    """Return what of a configuration lasts, as JSON; what JSON does not know as its name."""
    kept = {key: value for key, value in values.items() if not key.endswith(VOLATILE)}
    return json.dumps(kept, sort_keys=True, default=str)


def check_vision_record(folder: Path, sample: Sample, trained: Mapping[str, Any]) -> None:
    """Check that a model is shown media as in its training.

    Args:
        folder: Model folder.
        sample: Any sample that it is shown.
        trained: What `vision_record` said then.

    Raises:
        VisionError: Something differs; it is named.
    """
    found = vision_record(folder, sample) if trained else {}
    for key, value in trained.items():
        if found[key] != value:
            raise VisionError(
                f"{folder}: {key}",
                f"is {found[key]}, but in training it was {value}",
                "take the data, configuration and versions of packages of its training",
            )
