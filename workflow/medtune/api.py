"""What the verbs for single cases do, for Python.

from pathlib import Path
from medtune import api

config = api.load(Path("config/mine.yaml"))
case = api.find_case(Path("BraTS-GLI-00001-000"), config.media.modalities)
for answer in api.predict_cases(config, Path("results/mine/grpo"), [case]):
print(answer.record()["world_mm"])
answer.write(Path("answer"))
"""

import medtune.training  # noqa: F401  (declares operators before transformers is imported)
from medtune.config.experiment import load
from medtune.evaluation.case import CaseAnswer, predict_cases
from medtune.evaluation.find_case import case_of_images, find_case
from medtune.evaluation.show import draw_case, find_sample, greedy_answers

__all__ = [
    "CaseAnswer",
    "case_of_images",
    "draw_case",
    "find_case",
    "find_sample",
    "greedy_answers",
    "load",
    "predict_cases",
]
