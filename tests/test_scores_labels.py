"""Label F1 by hand, and against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from medtune.metrics.labeler import read_labels
from medtune.metrics.labels import auroc, count, f1, laterality_aware_f1, set_f1, total
from medtune.sources.chest.labels import LABELS

EFFUSION, LEFT = {"Pleural Effusion": "present"}, read_labels("Small left effusion.")


def sided(text: str, truth: dict, reference: str) -> float | None:
    return laterality_aware_f1(read_labels(text), truth, read_labels(reference))


def test_negated_labels_are_no_positives():
    said = read_labels("No pneumothorax. Possible effusion. Mild edema.")
    positive = [label for label, one in said.items() if one.status == "present"]
    truth = {"Pneumothorax": "present", "Edema": "present", "Fracture": "uncertain"}
    counts = count([*positive, "Fracture"], truth, LABELS)
    assert counts[LABELS.index("Pneumothorax")].tolist() == [0, 0, 1]
    assert counts[LABELS.index("Edema")].tolist() == [1, 0, 0]
    assert counts.sum() == 2  # what is uncertain counts for nobody
    found = f1(counts)
    assert found["micro"] == pytest.approx(2 / 3)
    assert found["macro"] == pytest.approx(1 / 2)
    assert found["Atelectasis"] is None


def test_unknown_labels_are_not_judged():
    counts = count(["Edema", "Fracture"], {"Edema": "present"}, ["Edema"])
    assert counts.sum(axis=0).tolist() == [1, 0, 0]
    assert f1(total([]))["micro"] is None
    assert f1(total([counts, counts]))["micro"] == 1


def test_f1_against_scikit_learn():
    rng = np.random.default_rng(0)
    said, true = rng.random((2, 200, len(LABELS))) < rng.random(len(LABELS)) * 0.5
    counts = [
        count(
            {label for label, one in zip(LABELS, a, strict=True) if one},
            {label: "present" for label, one in zip(LABELS, b, strict=True) if one},
            LABELS,
        )
        for a, b in zip(said, true, strict=True)
    ]
    ours = f1(total(counts))
    for name in ("micro", "macro"):
        assert ours[name] == pytest.approx(f1_score(true, said, average=name))
    each = f1_score(true, said, average=None)
    assert [ours[label] for label in LABELS] == pytest.approx(each)
    scores = rng.integers(0, 5, 200)
    assert auroc(scores, true[:, 0]) == pytest.approx(roc_auc_score(true[:, 0], scores))


def test_auroc_by_hand():
    assert auroc([0.1, 0.4, 0.4, 0.9], [False, False, True, True]) == pytest.approx(3.5 / 4)
    assert auroc([0.1, 0.2], [True, True]) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Small left effusion.", 1),
        ("Small right effusion.", 0),
        ("Small effusion.", 0.5),
        ("Bilateral effusions.", 0.5),
        ("No left effusion.", 0),
        ("Possible left effusion.", 0),
        ("Left effusion and edema.", 2 / 3),
        ("", 0),
    ],
)
def test_sides_by_hand(text, value):
    assert sided(text, EFFUSION, "Small left effusion.") == pytest.approx(value)


def test_reports_without_findings_by_hand():
    normal = {"Pneumothorax": "absent", "Pleural Effusion": "absent"}
    written = "No pneumothorax or effusion."
    assert sided(written, normal, written) == 1
    assert sided(f"{written} No fracture.", normal | {"Fracture": "absent"}, written) == 1
    assert sided("No effusion.", normal, written) == pytest.approx(2 / 3)
    assert sided("No effusion or pneumothorax. Edema.", normal, written) == pytest.approx(4 / 5)
    assert sided("Left effusion.", normal, written) == 0
    assert sided("", normal, written) == 0
    assert sided("The lungs are clear.", normal, "No acute process.") == 1
    assert sided("Left effusion.", normal, "No acute process.") == 0
    assert sided("No effusion.", {}, "") is None
    assert sided("Left effusion.", EFFUSION, "") == 1  # a truth that tells no side


def test_lists_of_labels_by_hand():
    assert set_f1(["a", "x"], ["a", "b"], ["c"]) == pytest.approx(2 / 3)  # x is unknown
    assert set_f1(["a", "c"], ["a", "b"], ["c"]) == pytest.approx(1 / 2)
    assert set_f1([], ["a"], []) == 0
    assert set_f1([], [], ["c"]) == 1
    assert set_f1(["c"], [], ["c"]) == 0
    assert set_f1(["a"], [], []) is None
