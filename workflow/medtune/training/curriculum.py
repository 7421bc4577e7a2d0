"""Which prompts GRPO trains on, by how hard they are for the model it starts from.

The recipe of Time-R1 (arXiv:2503.13377): a scoring pass answers every prompt of the training split
a few times; prompts that are never or nearly always solved teach nothing and are left out, and
the others are drawn with a preference for one difficulty.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from medtune.config.rollouts import CurriculumConfig
from medtune.config.stages import DifficultyStage
from medtune.models.base_reference import base_path
from medtune.models.coordinate_format import COORDINATE_FORMATS
from medtune.models.generate import generate
from medtune.models.inputs import encode_sample
from medtune.models.loading import load_model, load_processor
from medtune.records.sample import iterate, load_split
from medtune.rewards.base import saved_failures, score_all
from medtune.runtime.console import ProgressLine, log
from medtune.runtime.errors import DataError
from medtune.runtime.files import MANIFEST, check_manifest, sha256_text
from medtune.runtime.tables import read_rows, write_rows
from medtune.tasks import get_task, get_terms
from medtune.training.sampling import answer_seeds, seeded_sampling


def score_prompts(stage: DifficultyStage, model: Path, dataset: Path, output: Path) -> None:
    """Write how well a model's sampled answers do on every prompt of the training split.

    Columns: id, reward (mean, 0..1) and deviation (of the answers to one prompt).

    Args:
        stage: The configuration.
        model: Model folder that GRPO will start from (its manifest is checked).
        dataset: Folder of the data set (its manifest is checked).
        output: Parquet file.

    Raises:
        RewardError: A reward term failed; `<output>.failed_reward.json` says on what.
    """
    import torch

    for parent in (dataset, model):
        check_manifest(parent / MANIFEST)
    task, dialect = get_task(stage.task), COORDINATE_FORMATS[stage.model.family]
    terms = get_terms(task, stage.reward, stage.reward_sha256)
    path, copies = base_path(model), (stage.grpo.curriculum or CurriculumConfig()).num_samples
    processor = load_processor(path)
    policy = load_model(path, stage.model).to("cuda" if torch.cuda.is_available() else "cpu")
    rows: list[dict[str, Any]] = []
    train = load_split(dataset, "train")
    with ProgressLine("difficulty", len(train)) as line, saved_failures(output):
        for sample in iterate(train):
            told = task.render_history(sample, dialect)
            encoded = encode_sample(processor, told, task.prompt(sample, dialect), dataset)
            seeds = answer_seeds(stage.seed, 0, [sample.id] * copies)
            with seeded_sampling(policy, seeds, stage.grpo.temperature):
                limit = stage.grpo.max_completion_length
                answers = generate(policy, processor, [encoded], limit, True, copies)
            judged = [task.judge(answer["text"], sample, dialect) for answer in answers]
            rewards = [total for total, _ in score_all(terms, judged)]
            rows.append({"id": sample.id, "reward": fmean(rewards), "deviation": pstdev(rewards)})
            line.advance()
    write_rows(output, rows)


def choose_prompts(
    scored: Sequence[Mapping[str, Any]], config: CurriculumConfig, seed: int
) -> list[str]:
    """Return the ids of the prompts to train on, in the order of the table.

    Each is drawn at most once, with a chance that falls off like a normal distribution around
    `target_reward` (Efraimidis and Spirakis 2006, doi:10.1016/j.ipl.2005.11.003); its draw follows
    from seed and id.

    Args:
        scored: Rows of the table of `score_prompts`.
        config: Limits, center and width.
        seed: The experiment's seed.

    Raises:
        DataError: No prompt lies within the limits.
    """
    hard = [row for row in scored if row["reward"] <= config.min_reward]
    easy = [row for row in scored if row["reward"] > config.max_reward]
    kept = [row for row in scored if config.min_reward < row["reward"] <= config.max_reward]
    log(
        f"curriculum: {len(kept)} of {len(scored)} prompts; {len(hard)} are solved to "
        f"{config.min_reward} at most, {len(easy)} above {config.max_reward}"
    )
    if not kept:
        raise DataError(
            "grpo.curriculum",
            f"no prompt has a mean reward above {config.min_reward} and up to {config.max_reward}",
            "widen the limits, or train SFT for longer",
        )

    def key(row: Mapping[str, Any]) -> float:
        uniform = (int(sha256_text(f"{seed}/{row['id']}")[:13], 16) + 1) / (16**13 + 1)
        # log(u) / weight, in logarithms: the weight of a far prompt is too small for a float
        distance = (row["reward"] - config.target_reward) / config.target_std
        return float(math.log(-math.log(uniform)) + distance**2 / 2)

    drawn = sorted(kept, key=key)[: config.max_prompts]
    chosen = {row["id"] for row in drawn}
    return [row["id"] for row in scored if row["id"] in chosen]


def within_curriculum(train: Any, table: Path, config: CurriculumConfig, seed: int) -> Any:
    """Return the chosen rows of the training split.

    Raises:
        DataError: The table is not of this data set, or chooses nothing.
    """
    scored = read_rows(table)
    if [row["id"] for row in scored] != list(train["id"]):
        raise DataError(table, "is not of this training split", "remove it and run again")
    chosen = set(choose_prompts(scored, config, seed))
    return train.select([n for n, name in enumerate(train["id"]) if name in chosen])
