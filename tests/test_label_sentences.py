"""Labels of many sentences and of real reports: no denial is inverted."""

import itertools
import time

import pytest
from label_sentences import SHORT, claims, wrong
from openi_reports import PATH, f1_by_label, normal_share, read_reports

from medtune.metrics.labeler import is_normal_report, read_labels
from medtune.tasks.chest.texts import report_scores

NAMES = {
    **{label: label.lower() for label in SHORT.values()},
    "Edema": "pulmonary edema",
    "Enlarged Cardiomediastinum": "mediastinal widening",
    "Fracture": "rib fracture",
    "Lung Lesion": "lung mass",
    "Lung Opacity": "airspace opacity",
    "Pleural Other": "pleural thickening",
    "Support Devices": "central venous catheter",
}
DENIALS = (
    *("No {}.", "There is no {}.", "Without {}.", "No evidence of {} is seen in either lung."),
    *("Negative for {}, as before.", "Nothing to suggest {} on the left.", "Free of {}."),
    *("No findings to suggest {} after biopsy.", "There is no {}, or other abnormality."),
    *(
        "{} is absent.",
        "{} is not seen.",
        "{}: None.",
        "{} - none",
        "Previously seen {}, now resolved.",
    ),
    *("{} has cleared.", "{} is no longer visible.", "{} is ruled out.", "{} was not identified."),
)
ADJECTIVES = ("", "acute", "new, focal", "large, layering", "acute or chronic", "left", "residual")
LISTS = (
    *(
        "No {}, {}, or {}.",
        "No {}, {}, {} is identified.",
        "No {} or {} is seen, and there is no {}.",
    ),
    *("{}, {}, and {} are absent.", "{}: none. {}: none. {}: none.", "No {}/{}/{}."),
    *(
        "{}: no; {}: no; {}: no",
        "No large {}, displaced {}, or focal {}.",
        "No {} and no {} or {}.",
    ),
    "No visible {}, {}, {}, or free air.",
)
ASSERTIONS = (
    *("There is {}.", "{} is present.", "No change in {}.", "{} has not resolved.", "{} persists."),
    *("{} has nearly resolved.", "No significant interval change in {}.", "{}: present."),
    *("{} is seen on the frontal view but not on the lateral.", "{}, not seen on the prior film."),
    "There is no doubt that there is {}.",
)
DOUBTS = (
    *("Possible {}.", "{} cannot be excluded.", "Findings may represent {}.", "{} is unlikely."),
    *("{} is in the differential.", "{}, if present, is small.", "{} is likely present.", "{}?"),
    *("Findings could be compatible with {}.", "{} should be considered.", "Is there {}?"),
)
CONTRASTS = (
    *(
        "No {}, but there is {}.",
        "No {}; {} is present.",
        "No {} with small {}.",
        "No {}, small {}.",
    ),
    *("No {}, the {} is unchanged.", "Although there is no {}, {} is seen.", "No {}, left {}."),
    *("{} has resolved, but {} persists.", "{}: none. {}: present.", "No {} other than {}."),
)


def status(text: str) -> dict[str, str]:
    return {label: finding.status for label, finding in read_labels(text).items()}


@pytest.mark.parametrize("part", claims())
def test_sentences_say_what_they_say(part):
    told = [
        f"{'INVERTED ' * inverted}{claim.sentence!r} {claim.label}: "
        f"{'not ' * claim.negated}{claim.status}, read {found}"
        for claim, found, inverted in wrong(claims()[part], status)
    ]
    assert not told, "\n".join(told)


def test_the_table_has_hundreds_of_claims_on_every_label():
    everything = list(itertools.chain(*claims().values()))
    assert len(everything) > 1000
    for label in SHORT.values():
        told = [claim.status for claim in everything if claim.label == label and not claim.negated]
        assert {"present", "absent"} <= {*told}, label
        assert len(told) >= 10, label


def read_wrongly(patterns, expected, choices):
    """Sentences of the patterns, with the names of labels, of which a label is read otherwise."""
    told = []
    for labels in choices:
        for pattern in patterns:
            text = pattern.format(*(NAMES[label] for label in labels))
            found = status(text)
            told += [
                text
                for label, want in zip(labels, expected, strict=True)
                if found.get(label) != want
            ]
    return told


def test_no_label_is_inverted_in_any_wording():
    single = [(label,) for label in NAMES]
    denials = [p.replace("{}", f"{a} {{}}".strip()) for p in DENIALS for a in ADJECTIVES]
    told = read_wrongly(denials, ["absent"], single)
    told += read_wrongly(LISTS, ["absent"] * 3, itertools.combinations(NAMES, 3))
    told += read_wrongly(ASSERTIONS, ["present"], single)
    told += read_wrongly(DOUBTS, ["uncertain"], single)
    told += read_wrongly(CONTRASTS, ["absent", "present"], itertools.permutations(NAMES, 2))
    assert not told, "\n".join(told)


@pytest.mark.parametrize(
    ("reference", "right", "false"),
    [
        (
            "The lungs are clear. No acute, displaced rib fractures are demonstrated.",
            "The lungs are clear. No rib fracture.",
            "The lungs are clear. There is a rib fracture.",
        ),
        (
            "LUNGS: Clear. Pleural effusion: None. Pneumothorax: None.",
            "Lungs are clear. No pleural effusion or pneumothorax.",
            "There is a pleural effusion and a pneumothorax.",
        ),
        (
            "Heart: Normal size.\nPleural effusion: None\nFracture: None",
            "Normal heart, no effusion, no fracture.",
            "Large heart, effusion, fracture.",
        ),
    ],
)
def test_a_right_denial_is_paid_and_a_false_claim_is_not(reference, right, false):
    assert report_scores(right, reference)["label_f1"] == 1
    assert report_scores(false, reference)["label_f1"] == 0


NORMAL = """
No abnormality is seen. | This film is normal. | Nothing abnormal can be marked. | Normal chest.
No acute, focal abnormality is demonstrated. | No evidence of active disease. | Findings: none.
The chest is unremarkable. | There is no pathology. | No acute cardiopulmonary process.
"""
NOT_NORMAL = """
There is no doubt that an abnormality is present. | Nothing here is normal.
The film is not normal. | I do not think the film is normal. | Is the film normal?
No abnormality other than hilar prominence. | An abnormality cannot be excluded.
No change in the known disease. | History: no disease. | Not without abnormal findings.
Except for the hila, the film is normal. | It cannot be said that the film is normal.
I doubt that the film is normal. | The findings are abnormal.
"""


@pytest.mark.parametrize(("sentences", "normal"), [(NORMAL, True), (NOT_NORMAL, False)])
def test_what_says_that_nothing_is_abnormal(sentences, normal):
    for sentence in sentences.replace("\n", " | ").split(" | "):
        assert not sentence or is_normal_report(sentence) == normal, sentence


# F1 before the rules read commas, headings and questions; no label may fall below.
FLOORS = {
    "Atelectasis": 0.92,
    "Cardiomegaly": 0.91,
    "Consolidation": 0.91,
    "Edema": 0.85,
    "Enlarged Cardiomediastinum": 0.29,
    "Fracture": 0.86,
    "Lung Lesion": 0.91,
    "Lung Opacity": 0.97,
    "Pleural Effusion": 0.93,
    "Pleural Other": 0.74,
    "Pneumonia": 0.85,
    "Pneumothorax": 0.86,
    "Support Devices": 0.85,
}


@pytest.mark.skipif(
    PATH is None or not PATH.is_file(),
    reason="torchxrayvision, which ships Open-i, is not installed",
)
def test_real_reports_agree_with_their_tags():
    reports = list(read_reports(PATH))
    assert len(reports) == 3860  # of 3,955; 95 have no tags
    start = time.process_time()
    f1 = f1_by_label(reports, status)
    each = (time.process_time() - start) / len(reports)
    assert {label: value for label, value in f1.items() if value < FLOORS[label]} == {}
    assert normal_share(reports, status) >= 0.99
    assert each < 0.005  # seconds a report
