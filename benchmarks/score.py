"""Time of scoring 10,000 predictions, beside the time of its parts.

    python benchmarks/score.py [--cases 770] [--rounds 3]

Three models answer every case once greedily; two of them four times by sampling, and once with
another's video: 13 predictions per case. Answers are the truth with errors, one in ten is junk;
the cases are those of a few phantoms, under names of their own. The data set is written once; what
is measured is `medtune score` without the start of Python: reading, judging, metrics, rewards,
intervals over patients, groups, comparisons, and writing.
"""

import argparse
import cProfile
import json
import pstats
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from medtune.config.data import MediaConfig, PhantomConfig, SourceConfig, TargetConfig, TaskConfig
from medtune.config.evaluation import BASELINES, EvaluationConfig
from medtune.config.stages import BaselinesStage, ScoreStage
from medtune.config.training import FamilyConfig, RewardConfig
from medtune.evaluation.baselines import write_baselines
from medtune.evaluation.predictions import read_predictions
from medtune.evaluation.score import score
from medtune.geometry.volume import Geometry
from medtune.media.convert import Converted, convert_case
from medtune.models.coordinate_format import PIXELS
from medtune.records.sample import Sample, write_dataset
from medtune.runtime.files import write_manifest
from medtune.runtime.tables import write_rows
from medtune.sources import find_cases
from medtune.sources.brain.phantom import write_phantom
from medtune.tasks import get_task
from medtune.tasks.base import with_truth

TASK = get_task(TaskConfig())
SAMPLED = {"base": 0, "sft": 4, "grpo": 4}


def convert(folder: Path) -> list[Converted]:
    """Return a few converted phantoms."""
    write_phantom(PhantomConfig(root=str(folder / "raw"), patients=20, shape=(44, 52, 16)), seed=1)
    source = SourceConfig(
        name="phantom", kind="brats2023_gli", root=str(folder / "raw"), allow_empty_masks=True
    )
    media = MediaConfig(modalities=["t2f", "t1c", "t2w"], layout="rgb", tile_size=(64, 64))
    target = folder / "media/phantom"
    return [convert_case(case, TargetConfig(), media, target) for case in find_cases([source])]


def sample(one: Converted, number: int, split: str) -> Sample:
    """Return a sample under a name of its own."""
    assert one.truth is not None
    affine = np.array(one.geometry.affine)
    affine[0, 3] += number  # no two cases share a geometry
    geometry = one.geometry.model_copy(update={"affine": tuple(map(tuple, affine.tolist()))})
    return Sample(
        id=f"phantom/{number:05d}/{TASK.name}",
        source="phantom",
        case_id=f"{number:05d}",
        patient_id=f"patient {number * 10 // 11}",
        split=split,
        task=TASK.name,
        media=[one.media.model_copy(update={"path": f"../media/phantom/{one.media.path}"})],
        prompt="Where?",
        target=None,
        truth=one.truth.model_dump(mode="json"),
        geometry=geometry.model_dump(mode="json"),
        meta=one.meta,
    )


def answer(one: Sample, rng: np.random.Generator) -> str:
    """Return the truth with errors, or junk."""
    box = one.truth["bbox_3d"]
    if rng.random() < 0.1:
        return "I see nothing."
    if box is None:
        return json.dumps({"bbox_3d": None, "peak_slice": None, "tumor_ratio": 0})
    geometry = Geometry.model_validate(one.geometry)
    ends = np.array([*geometry.size, geometry.frames] * 2)
    moved = np.clip(np.array(box) + rng.normal(0, 2, 6), 0, ends)
    low, high = np.minimum(moved[:3], moved[3:]), np.maximum(moved[:3], moved[3:]) + 0.01
    claim = {"bbox_3d": [*low, *np.minimum(high, ends[:3])], "peak_slice": one.truth["peak_slice"]}
    return TASK.target(with_truth(one, claim | {"tumor_ratio": 0.1}), PIXELS)


def predict(samples: list[Sample], folder: Path) -> int:
    """Write the predictions of all models; return how many they are."""
    rng, count = np.random.default_rng(0), 0
    for model, draws in SAMPLED.items():
        modes = [("greedy", 0), *(("sampled", draw) for draw in range(draws))]
        modes += [("shuffled", 0)] if draws else []
        rows = [
            {"id": s.id, "family": "qwen2_5_vl", "mode": mode, "draw": draw, "video_of": s.id}
            | {"text": answer(s, rng), "tokens": 40, "ended": True, "finish": "stop"}
            for mode, draw in modes
            for s in samples
        ]
        write_rows(folder / model / "0000.parquet", rows)
        count += len(rows)
    return count


def main() -> None:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=770)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="Print where the time goes.")
    given = parser.parse_args()
    stage = ScoreStage(task=TaskConfig(), reward=RewardConfig(), evaluation=EvaluationConfig())
    with tempfile.TemporaryDirectory() as name:
        folder, predictions = Path(name), Path(name) / "predictions"
        converted = convert(folder)
        samples = [
            sample(converted[number % len(converted)], number, "test" if number >= 50 else "train")
            for number in range(given.cases + 50)
        ]
        dataset = folder / "datasets"
        write_dataset(samples, dataset)
        write_manifest(dataset, [], {}, stage="annotate")
        count = predict(samples[50:], predictions)
        start = time.perf_counter()
        tables = {name: predictions / name / "0000.parquet" for name in BASELINES}
        family = FamilyConfig(family="qwen2_5_vl")
        write_baselines(BaselinesStage(task=TaskConfig(), model=family), dataset, tables)
        baseline = time.perf_counter() - start
        folders = sorted(predictions.iterdir())
        rows = sum(map(len, read_predictions(folders).values()))
        profile, seconds, busy = cProfile.Profile(), [], []
        for _ in range(given.rounds):
            start, cpu = time.perf_counter(), time.process_time()
            if given.profile:
                profile.enable()
            score(stage, dataset, folders, folder / "m.json", folder / "c.parquet")
            profile.disable()
            seconds.append(time.perf_counter() - start)
            busy.append(time.process_time() - cpu)
        size = (folder / "m.json").stat().st_size / 1e6
    if given.profile:
        pstats.Stats(profile).sort_stats("cumulative").print_stats(45)
    print(
        f"{count} predictions of {given.cases} cases, and {rows - count} of baselines (their "
        f"videos read in {baseline:.1f} s): scored in {statistics.median(seconds):.2f} s "
        f"(median of {given.rounds}; {min(seconds):.2f} to {max(seconds):.2f}), processor time "
        f"{statistics.median(busy):.2f} s, metrics.json "
        f"{size:.1f} MB"
    )


if __name__ == "__main__":
    main()
