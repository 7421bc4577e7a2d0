"""pass@k: how probably at least one of k sampled answers to a case is correct.

An answer is correct whose main metric of the task reaches `evaluation.correct_from`; an invalid one
is not. Of n answers with c correct ones the estimate without bias is 1 - C(n - c, k) / C(n, k)
(Chen et al. 2021, arXiv:2107.03374, equation 1); 1 - (1 - c / n)^k would be too low.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from math import comb
from typing import Any

import numpy as np

from medtune.config.stages import ScoreStage
from medtune.evaluation.statistics import estimates
from medtune.tasks import get_task


def pass_at(answers: int, correct: int, k: int) -> float:
    """Return the estimate of a case with `answers` answers, k of them or more."""
    return 1 - comb(answers - correct, k) / comb(answers, k)


def pass_rates(scored: Iterable[Mapping[str, Any]], stage: ScoreStage) -> dict[str, Any]:
    """Return pass@k of every model that was sampled more than once.

    Cases to which the main metric does not apply do not count.

    Args:
        scored: Scored rows.
        stage: The configuration.

    Returns:
        `metric` and `correct_from`, the rule, and `models`: name -> k as text -> estimate, over
        patients, for k = 1, 2, 4, ... and the number of answers to each case.
    """
    main, threshold = get_task(stage.task).main, stage.evaluation.correct_from
    draws: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    patients = {}
    for row in scored:
        if row["mode"] == "sampled" and row[main] is not None:
            draws[row["model"]][row["id"]].append(row[main] >= threshold)
            patients[row["id"]] = row["patient_id"]
    models = {}
    for model, cases in draws.items():
        fewest = min(map(len, cases.values()))
        if fewest < 2:
            continue
        sizes = sorted({2**power for power in range(fewest.bit_length())} | {fewest})
        rates = [[pass_at(len(own), sum(own), k) for k in sizes] for own in cases.values()]
        found = estimates(
            np.array(rates),
            [patients[name] for name in cases],
            stage.evaluation.resamples,
            stage.evaluation.confidence,
            stage.seed,
        )
        known = zip(sizes, found, strict=True)
        models[model] = {str(k): one.model_dump() for k, one in known if one}
    return {"metric": main, "correct_from": threshold, "models": models}
