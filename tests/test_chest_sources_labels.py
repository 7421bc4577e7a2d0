"""Labels of chest films under every policy, and sections of raw reports."""

import pytest

from medtune.config.chest_sources import LabelPolicy
from medtune.sources.chest.labels import LABELS, LabelError, read_labels
from medtune.sources.chest.report_sections import best_section, read_sections, section_of

POLICIES = [
    LabelPolicy(uncertain=uncertain, blank=blank)
    for uncertain in ("ones", "zeros", "ignore")
    for blank in ("unknown", "absent")
]


def test_the_labels_are_13_in_order():
    assert len(LABELS) == 13
    assert list(LABELS) == sorted(LABELS)


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_uncertain_and_blank_follow_the_policy_and_nothing_else(policy):
    row = {"Edema": "1.0", "Fracture": "0.0", "Pneumonia": "-1.0", "Lung Lesion": ""}
    labels, no_finding, contradicts = read_labels(row, policy)
    uncertain = {"ones": "present", "zeros": "absent", "ignore": "uncertain"}[policy.uncertain]
    said = {"Edema": "present", "Fracture": "absent", "Pneumonia": uncertain}
    blank = dict.fromkeys(LABELS, "absent") if policy.blank == "absent" else {}
    assert labels == blank | said
    assert (no_finding, contradicts) == (False, False)


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_a_row_that_says_nothing_is_never_a_normal_film(policy):
    for row in ({}, dict.fromkeys(LABELS), dict.fromkeys(LABELS, ""), {"Edema": float("nan")}):
        assert read_labels(row, policy) == ({}, None, False)


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_no_finding_makes_all_but_devices_absent(policy):
    labels, no_finding, contradicts = read_labels({"No Finding": 1.0}, policy)
    devices = labels.pop("Support Devices", None)
    assert labels == {name: "absent" for name in LABELS if name != "Support Devices"}
    assert devices == (None if policy.blank == "unknown" else "absent")
    assert (no_finding, contradicts) == (True, False)
    labels, no_finding, contradicts = read_labels({"No Finding": 1, "Support Devices": 1}, policy)
    assert labels["Support Devices"] == "present"
    assert (no_finding, contradicts) == (True, False)


def test_a_finding_beside_no_finding_counts_and_is_told():
    labels, no_finding, contradicts = read_labels({"No Finding": 1, "Edema": 1}, LabelPolicy())
    assert (labels, no_finding, contradicts) == ({"Edema": "present"}, False, True)
    labels, no_finding, contradicts = read_labels({"No Finding": 1, "Edema": -1}, LabelPolicy())
    assert (labels, no_finding, contradicts) == ({"Edema": "uncertain"}, None, True)


def test_devices_alone_are_no_finding_nor_none():
    assert read_labels({"Support Devices": 1}, LabelPolicy())[1] is None
    assert read_labels({"No Finding": 0, "Edema": 0}, LabelPolicy())[1] is False


@pytest.mark.parametrize("value", ["2", "yes", "0.5", "-0.5", "nan."])
def test_other_values_are_refused(value):
    with pytest.raises(LabelError, match="Edema is"):
        read_labels({"Edema": value}, LabelPolicy())


REPORT = """
                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___ year old woman with cough

 COMPARISON:  None.

 FINDINGS:

 The lungs are
 clear.  No pleural
 effusion.

 IMPRESSION:

 None of the above.
"""


def test_newlines_become_spaces_and_the_word_none_stays():
    assert read_sections(REPORT) == {
        "findings": "The lungs are clear. No pleural effusion.",
        "impression": "None of the above.",
    }
    assert read_sections(REPORT.replace("\n", "\r\n")) == read_sections(REPORT)


def test_the_last_section_with_text_counts():
    text = " FINDINGS: first\n FINDINGS: second\n FINDINGS:\n IMPRESSION: a\n IMPRESSION: b\n"
    assert read_sections(text) == {"findings": "second", "impression": "b"}


def test_an_addendum_is_no_part_of_the_impression():
    for mark in ("ADDENDUM:", "                         FINAL ADDENDUM\n", "ADDENDUM\n"):
        text = f" IMPRESSION: Clear.\n {mark} The date was wrong.\n"
        assert read_sections(text) == {"impression": "Clear."}
    corrected = " IMPRESSION: Clear.\n ADDENDUM: Sorry.\n IMPRESSION: Not clear.\n"
    assert read_sections(corrected) == {"impression": "Not clear."}


def test_a_preliminary_reading_is_not_the_report():
    text = " WET READ: Edema.\n                    FINAL REPORT\n FINDINGS: No edema.\n"
    assert read_sections(text) == {"findings": "No edema."}


def test_a_view_as_header_counts_where_there_are_no_findings():
    assert read_sections(" PA AND LATERAL CHEST, ___:  Clear.\n") == {"findings": "Clear."}
    both = " FINDINGS: Clear.\n IMPRESSION: Good.\n PORTABLE CHEST: Later.\n"
    assert read_sections(both) == {"findings": "Clear.", "impression": "Good."}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            " INDICATION: Cough.\n\n Lungs are\n clear.\n\n Heart is normal.\n",
            "Lungs are clear. Heart is normal.",
        ),
        (" INDICATION: Cough.\n", None),  # an indication is no report
        ("               FINAL REPORT\n Chest film.\n\n Clear.\n", "Clear."),
        (" Clear lungs.\n", "Clear lungs."),
        (" INDICATION: Cough.\n\n Clear.\n ADDENDUM: No.\n", "Clear."),
        ("", None),
    ],
)
def test_the_last_paragraph_stands_for_a_report_without_sections(text, expected):
    assert read_sections(text) == ({"last_paragraph": expected} if expected else {})


@pytest.mark.parametrize(
    ("header", "section"),
    [
        ("FINDINGS", "findings"),
        ("Findings", "findings"),
        ("FINDNGS", "findings"),
        ("FINDINGS AND IMPRESSION", "findings"),
        ("IMPRESSON", "impression"),
        ("IMPRESSION AND RECOMMENDATION", "impression"),
        ("CONCLUSION", "impression"),
        ("REASON FOR EXAMINATION", "history"),
        ("Clinical history", "history"),
        ("COMPARSION", "comparison"),
        ("CHEST, TWO VIEWS", "views"),
        ("LEFT LUNG", None),
        ("CHEST TUBE", None),
        ("Findings were discussed with Dr", None),
        ("The chest", None),
        ("clinical history", None),  # the end of a sentence
    ],
)
def test_headers_are_known_by_name_alias_and_typo(header, section):
    assert section_of(header) == section


def test_text_before_an_unknown_colon_stays_in_its_section():
    text = " FINDINGS: Lines.\n LEFT LUNG: clear.\n at 10:30: seen.\n"
    assert read_sections(text) == {"findings": "Lines. LEFT LUNG: clear. at 10:30: seen."}


def test_findings_stand_for_a_report_before_the_impression():
    assert best_section({"impression": "b", "findings": "a", "spanish": "c"}) == "a"
    assert best_section({"impression": "b", "findings": ""}) == "b"
    assert best_section({"last_paragraph": "d"}) == "d"
    assert best_section({"spanish": "c"}) is None
