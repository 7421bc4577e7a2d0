"""Answers about films that are no model's, and the blind ones."""

from pathlib import Path

import pytest
from chest_films import REPORT, film, normal, samples

from medtune.config.data import TaskConfig
from medtune.evaluation.blind_answers import blind_rows
from medtune.models.coordinate_format import IMAGE_COORDINATE_FORMATS
from medtune.tasks import get_task
from medtune.tasks.base import with_truth
from medtune.tasks.chest.xray import BLIND, PARTS, kept

TASK = get_task(TaskConfig(name="chest_xray"))
QWEN = IMAGE_COORDINATE_FORMATS["qwen2_5_vl"]
GROUNDED = ("anatomical_grounding", "abnormality_grounding", "phrase_grounding")
SAMPLES = {one.task: one for one in samples(film(50))}


@pytest.fixture(scope="module")
def known():
    """Training samples of thirty films, a third of them normal."""
    films = [normal(100 + n) if n % 3 == 0 else film(n) for n in range(30)]
    return [one for each in films for one in samples(each, "train", anatomy_questions_per_image=3)]


@pytest.fixture(scope="module")
def asked():
    """Test samples of every task."""
    return [*samples(film(50)), *samples(normal(200))]


def test_baselines_answer_validly_and_in_order(known, asked):
    claims = TASK.baselines(known, 1)
    assert list(claims) == ["constant", "random", "center", "oracle"]
    assert {one.task for one in known} == set(PARTS)
    means = {}
    for name, claim in claims.items():
        found = []
        for sample in asked:
            text = TASK.target(with_truth(sample, claim(sample, Path())), QWEN)
            judged = TASK.judge(text, sample, QWEN)
            assert judged.answer is not None, (name, sample.id, text, judged.reason)
            found.append(TASK.measure(judged))
        means[name] = [
            value
            for row in found
            for key, value in row.items()
            if value is not None and key.startswith(GROUNDED) and "iou" in key
        ]
    mean = {name: sum(values) / len(values) for name, values in means.items()}
    # The films of the tests differ by pixels: what is typical is nearly true.
    assert mean["random"] < mean["constant"] <= mean["oracle"]
    assert mean["oracle"] > 0.95
    again = TASK.baselines(reversed(known), 1)
    for sample in asked:
        for name in claims:
            assert again[name](sample, Path()) == claims[name](sample, Path())


def test_the_constant_answer_by_hand(known):
    typical = TASK.constant_baseline(known)
    labels = typical(SAMPLES["abnormality_classification"])
    assert labels["present"] == ["Lung Lesion"]
    names = [one["name"] for one in typical(SAMPLES["abnormality_detection"])["findings"]]
    assert names == ["ILD", "nodule/mass"]
    assert typical(SAMPLES["report_generation"])["report"] == REPORT
    heart = next(one for one in samples(film(50)) if one.truth.get("name") == "Cardiac silhouette")
    # Median of the twenty films with boxes, of numbers 1, 2, 4, 5, ...: half of 14 and 16 more.
    assert typical(heart)["boxes"][0][0] == pytest.approx((800 + 15) / 4, abs=0.5)
    nothing = TASK.constant_baseline([])
    for sample in SAMPLES.values():
        text = TASK.target(with_truth(sample, nothing(sample)), QWEN)
        assert TASK.judge(text, sample, QWEN).answer is not None


def test_blind_answers_exist_for_every_question(known, asked):
    rows = blind_rows(TASK, "qwen3_vl", known, asked)
    assert {"constant", "constant, twice", *BLIND} <= rows.keys()
    assert {len(table) for table in rows.values()} == {len(asked)}
    samples_of = {one.id: one for one in asked}
    dialect = IMAGE_COORDINATE_FORMATS["qwen3_vl"]
    for name in ("constant", *BLIND):
        for row in rows[name]:
            assert TASK.judge(row["text"], samples_of[row["id"]], dialect).answer is not None, row
    for name in ("nothing", "constant, with NaN for numbers"):
        for row in rows[name]:
            if samples_of[row["id"]].task in GROUNDED:
                assert TASK.judge(row["text"], samples_of[row["id"]], dialect).answer is None


def test_what_is_typical_does_not_grow_with_the_data(known, monkeypatch):
    monkeypatch.setattr("medtune.tasks.chest.xray.EXAMPLES", 4)
    assert {len(found) for found in kept(known).values()} == {4}
    assert kept(known) == kept(reversed(known))
