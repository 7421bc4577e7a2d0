"""Data card, model card and lineage: what the figures were made from."""

import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from medtune.orchestration.lineage import WIDE, Lineage
from medtune.records.sample import SPLITS, Sample, iterate, load_split
from medtune.runtime.files import HISTORY, read_json

ALL = "all weights"


def data_card(results: Path) -> dict[str, Any]:
    """Return `rows` by source and split, how videos are `shown`, and the `verification`."""
    rows, shown = [], set()
    for split in SPLITS:
        samples = list(iterate(load_split(results / "datasets", split, allow_empty=True)))
        shown |= {_shown(sample) for sample in samples}
        for source in sorted({sample.source for sample in samples}):
            own = [sample for sample in samples if sample.source == source]
            frames = [sample.media[0].frames for sample in own]
            without = sum(sample.truth.get("bbox_3d", 0) is None for sample in own)
            patients = len({sample.patient_id for sample in own})
            counts = [str(count) for count in (len(own), patients, without)]
            rows.append([source, split, *counts, f"{min(frames)} to {max(frames)}"])
    verification = read_json(results / "index" / "verification.json")
    return {"rows": rows, "shown": sorted(shown), "verification": verification}


def _shown(sample: Sample) -> str:
    media, modalities = sample.media[0], sample.meta.get("modalities")
    if modalities is None:
        return f"images with sides in multiples of {math.gcd(media.width, media.height, 64)} pixels"
    rate = f"{media.fps:g} frames per second"
    return f"{media.width} x {media.height} pixels, {rate}, {', '.join(modalities)}"


def parameters(model: Path) -> int:
    """Return the number of weights in a model folder, by the heads of its safetensors files."""
    from safetensors import safe_open

    count = 0
    for file in sorted(model.glob("*.safetensors")):
        with safe_open(file, framework="numpy") as weights:
            for name in weights.keys():  # noqa: SIM118  (no mapping)
                size = 1
                for side in weights.get_slice(name).get_shape():
                    size *= side
                count += size
    return count


def trained_part(section: Mapping[str, Any]) -> str:
    """Return in words what a training stage has trained, by its configuration."""
    if section["lora"] is not None:
        return f"adapters (LoRA of rank {section['lora']['rank']})"
    frozen = section["freeze"]
    return f"{ALL} but {', '.join(frozen)}" if frozen else ALL


def model_card(results: Path, name: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `facts` of a model by name, and its `config` as text.

    Args:
        results: Folder of the experiment.
        name: base, sft or grpo.
        manifest: Of the model's folder.
    """
    folder, config = results / name, manifest["config"]
    facts = {}
    if any(folder.glob("*.safetensors")):  # else the folder only names its model
        facts["weights"] = f"{parameters(folder):,}"
    if name in config:
        steps = max(entry["step"] for entry in read_json(folder / HISTORY))
        kept = manifest["step"]
        facts |= {
            "trained": trained_part(config[name]),
            "steps": f"{steps}, the weights of step {kept} are kept"
            if kept < steps
            else str(steps),
            "processes": str(manifest["processes"]),
        }
    else:
        model = config["model"]
        facts["family"] = model["family"]
        facts["base"] = model["path"] or "a tiny random model made for tests"
    facts["code"] = manifest["commit"]
    facts["versions"] = ", ".join(f"{n} {version}" for n, version in manifest["versions"].items())
    return {"facts": facts, "config": json.dumps(config, indent=1)}


def lineage_text(path: Path) -> str:
    """Return the tree of what an artifact was made from, as `medtune lineage` prints it."""
    console = Console(file=io.StringIO(), highlight=False, width=WIDE, color_system=None)
    console.print(Lineage(path, files=False).tree, soft_wrap=True)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines())
