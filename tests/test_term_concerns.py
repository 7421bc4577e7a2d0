"""A term that does not concern a sample is left out of its reward and of what is logged."""

from collections import defaultdict

import pytest
from test_rewards import HEALTHY, sample, text_of

from medtune.config.data import TaskConfig
from medtune.models.coordinate_format import PIXELS
from medtune.rewards.base import Term, score_all
from medtune.runtime.errors import ConfigError
from medtune.tasks import get_task
from medtune.training.grpo_rewards import LOGGED, reward_function
from medtune.training.validation import _means

TASK = get_task(TaskConfig())
OTHER = sample().model_copy(update={"id": "s/other/t", "task": "other"})


async def later(judged):
    assert all(of_other(one.sample) for one in judged)
    return [0.25 for _ in judged]


def of_other(one) -> bool:
    return one.task == "other"


def of_others(judged):
    assert judged, "a batched term is not called with nothing"
    assert all(of_other(one.sample) for one in judged)
    return [0.5] * len(judged)


TERMS = [
    Term("all", 1.0, lambda _: 1.0),
    Term("single", 3.0, lambda _: 0.0, concerns=of_other),
    Term("batch", 2.0, of_others, batched=True, concerns=of_other),
    Term("later", 2.0, later, batched=True, concerns=of_other),
]


def judged(*samples):
    return [TASK.judge(text_of(), one, PIXELS) for one in samples]


def test_a_term_counts_only_where_it_concerns():
    first, other, last = score_all(TERMS, judged(sample(), OTHER, HEALTHY))
    none = {"single": None, "batch": None, "later": None}
    assert first == last == (1.0, {"all": 1.0} | none)
    assert other[1] == {"all": 1.0, "single": 0.0, "batch": 0.5, "later": 0.25}
    assert other[0] == pytest.approx((1 + 0 + 2 * 0.5 + 2 * 0.25) / 8)
    assert score_all(TERMS, judged(sample()))[0][0] == 1.0  # no answer that it concerns


def test_a_sample_that_no_term_concerns_is_an_error():
    with pytest.raises(ConfigError, match=r"no term with a weight concerns s/c/t \(tumor_det"):
        score_all(TERMS[1:], judged(OTHER, sample()))


def test_what_is_logged_leaves_it_out():
    logged, extra = defaultdict(list), {}
    reward = reward_function(TASK, TERMS, PIXELS, group=2)

    def call(*samples):
        completions = [[{"content": text_of()}] for _ in samples]
        return reward(
            completions=completions,
            sample=list(samples),
            log_metric=lambda name, value: logged[name].append(value),
            log_extra=extra.__setitem__,
        )

    assert call(sample(), sample(), OTHER, OTHER)[:2] == [1.0, 1.0]
    assert logged["terms/batch/mean"] == [0.5]  # and not 0.25
    assert logged["terms/batch/group_std"] == [0.0]
    assert [row["term_batch"] for row in extra[LOGGED]] == [None, None, 0.5, 0.5]
    call(sample(), sample())
    assert len(logged["terms/batch/mean"]) == 1
    assert len(logged["terms/all/mean"]) == 2


def test_means_of_an_evaluation_leave_it_out():
    assert _means([{"a": 1.0, "b": None}, {"a": None, "b": None}, {"a": 0.0}]) == {"a": 0.5}
