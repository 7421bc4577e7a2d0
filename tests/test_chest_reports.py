"""Raw reports of many forms to what is learned of them: sections, words, earlier films, names."""

from collections import Counter
from pathlib import Path

import pytest

from medtune.records.film import Film, Region
from medtune.runtime.tables import read_rows
from medtune.sources.chest.identifiers import PATTERNS, identifier_kinds
from medtune.sources.chest.issues import Issues
from medtune.sources.chest.report_sections import read_report, read_sections
from medtune.sources.chest.reports import ReportCheck, speaks_of_priors
from medtune.sources.chest.wordless import has_words

SECTIONS = {
    "typo": (" NDICATION:  Cough.\n\n FNDINGS:  Lungs clear.\n", "Lungs clear.", None),
    "typo of a title": ("Findngs: lungs clear.\nImpresion: normal.", "lungs clear.", "normal."),
    "wet read, then final": (
        " WET READ: ___ 10:03 PM\n  No pneumothorax.\n        FINAL REPORT\n FINDINGS: Left PTX.\n",
        "Left PTX.",
        None,
    ),
    "final, then preliminary": (
        " FINAL REPORT\n FINDINGS: B is fine.\n\n PRELIMINARY REPORT\n FINDINGS: A is not.\n",
        "B is fine.",
        None,
    ),
    "both in one": (" FINDINGS AND IMPRESSION\n Small effusion.\n", "Small effusion.", None),
    "both by a slash": (" FINDINGS/IMPRESSION:  Small effusion.\n", "Small effusion.", None),
    "capitals": (
        " FINDINGS:\n STUDY QUALITY: Good.\n LUNGS: Clear.\n CHEST: Small.\n OTHER FINDINGS: Old"
        " rib fracture.\n\n IMPRESSION: Normal.\n",
        "STUDY QUALITY: Good. LUNGS: Clear. CHEST: Small. OTHER FINDINGS: Old rib fracture.",
        "Normal.",
    ),
    "remarks in a line": (
        "FINDINGS: Two views. Comparison: Prior film. Lungs: clear. IMPRESSION: Normal.",
        "Two views. Comparison: Prior film. Lungs: clear.",
        "Normal.",
    ),
    "one view": (" SINGLE AP VIEW OF THE CHEST:  Small effusion.\n", "Small effusion.", None),
    "two views": (" CHEST RADIOGRAPH, TWO VIEWS:  Small effusion.\n", "Small effusion.", None),
    "views in small letters": (
        "History: x\n\nChest radiograph, two views: Clear lungs.",
        "Clear lungs.",
        None,
    ),
    "clock in a header": (
        " HISTORY: x\n\n PORTABLE AP CHEST RADIOGRAPH FROM ___ AT 05:13:  Small effusion.\n",
        "Small effusion.",
        None,
    ),
    "opinion": (" HISTORY: x\n\n OPINION:  Small effusion.\n", None, "Small effusion."),
    "interpretation": (" INTERPRETATION:  Small effusion.\n", None, "Small effusion."),
    "discussion": (" FINDINGS: Clear lungs.\n\n DISCUSSION: Good.\n", "Clear lungs.", "Good."),
    "dash": (
        " FINDINGS \u2013 Clear.\n IMPRESSION - Small effusion.\n",
        "Clear.",
        "Small effusion.",
    ),
    "no colon": (
        "FINDINGS\nThe lungs are clear.\n\nIMPRESSION\nGood.",
        "The lungs are clear.",
        "Good.",
    ),
    "CR LF": (" FINDINGS:  Clear.\r\n\r\n IMPRESSION:  Normal.\r\n", "Clear.", "Normal."),
    "CR": (" FINDINGS:  Clear.\r\r IMPRESSION:  Normal.\r", "Clear.", "Normal."),
    "byte-order mark": ("\ufeffFINDINGS:  Clear.\n", "Clear.", None),
    "small letters": ("findings: clear lungs.\n\nimpression: normal.\n", "clear lungs.", "normal."),
    "Markdown": ("## History\nx\n\n**FINDINGS:** clear.\n\n**IMPRESSION:** ok.", "clear.", "ok."),
    "one line": ("INDICATION: cough. FINDINGS: Clear. IMPRESSION: Normal.", "Clear.", "Normal."),
    "one line in small letters": (
        "history: cough. findings: clear. impression: ok.",
        "clear.",
        "ok.",
    ),
    "French": ("RESULTATS: Pas de lesion.\n\nCONCLUSION: Normal.\n", "Pas de lesion.", "Normal."),
    "signature": ("IMPRESSION: Clear lungs.\nDictated by: Somebody\n", None, "Clear lungs."),
    "breaks of HTML": ("FINDINGS: Clear<BR>lungs &amp; heart.", "Clear lungs & heart.", None),
    "addendum by section": (
        " FINDINGS: Right effusion.\n\n IMPRESSION:  Right effusion.\n\n     FINAL ADDENDUM\n"
        " FINDINGS: Effusion is LEFT sided.\n",
        "Effusion is LEFT sided.",
        None,  # that of the report no longer holds
    ),
    "addendum by section, above": (
        "     FINAL ADDENDUM\n FINDINGS: Effusion is LEFT sided.\n\n     FINAL REPORT\n"
        " FINDINGS: Right effusion.\n",
        "Effusion is LEFT sided.",
        None,
    ),
    "short names": (" DIAGNOSIS: Cancer.\n\n IMP: Left effusion.\n", None, "Left effusion."),
    "admitting diagnosis": (
        " ADMITTING DIAGNOSIS: CHF.\n\n FINDINGS: Clear lungs.\n",
        "Clear lungs.",
        None,
    ),
    "Spanish": ("HALLAZGOS: Sin derrame.\n\nCONCLUSION: Normal.", "Sin derrame.", "Normal."),
    "German": ("BEFUND: Kein Erguss.\n\nBEURTEILUNG: Gut.", "Kein Erguss.", "Gut."),
    "addendum that tells of a call": (
        " FINDINGS: Right effusion.\n ADDENDUM: The effusion was discussed with Dr. ___.\n",
        "Right effusion.",
        None,
    ),
}


@pytest.mark.parametrize("name", SECTIONS)
def test_sections_are_read_from_reports_of_many_forms(name):
    text, findings, impression = SECTIONS[name]
    expected = {"findings": findings, "impression": impression}
    assert read_sections(text) == {key: value for key, value in expected.items() if value}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" REPORT:  Lungs are clear.\n\n Heart is normal.\n", "Lungs are clear. Heart is normal."),
        (" The lungs are clear.\n\n Heart is normal.\n", "The lungs are clear. Heart is normal."),
        ("CHEST PA\n\nLungs are clear.\n\nHeart is normal.", "Lungs are clear. Heart is normal."),
        (" EXAMINATION: CHEST\n\n NDICATION: Cough.\n\n Clear lungs.\n", "Clear lungs."),
        ("reason for exam: cough\n\nClear lungs.\n", "Clear lungs."),
    ],
)
def test_no_paragraph_of_a_report_without_headers_is_lost(text, expected):
    assert "".join(read_sections(text).values()) == expected


@pytest.mark.parametrize(
    ("text", "doubt"),
    [
        ("ADDENDUM: It is on the left, not right.\n\n FINAL REPORT\n FINDINGS: Right.", "addendum"),
        ("FINDINGS: No effusion.\nADDENDUM:\nThere is a small pneumothorax.", "addendum"),
        ("FINDINGS: A.\nADDENDUM: Dr. ___ was told that the left lung is not clear.", "addendum"),
        ("FINDINGS 05:00: ETT high.\n\nFINDINGS 07:00: ETT fine.", "several hours"),
        ("CHEST AT 05:00: ETT high.\n\nCHEST AT 07:00: ETT fine.", "several hours"),
        (r"{\rtf1 FINDINGS: Clear lungs.\par}", "RTF"),
        ("<html><body>FINDINGS: Clear lungs.</body></html>", "HTML"),
        ('{"findings": "Clear lungs."}', "JSON"),
    ],
)
def test_a_report_in_doubt_is_no_target(text, doubt):
    report = read_report(text)
    assert report.sections == {}
    assert doubt in report.doubt


WORDLESS = ("___", "...", "None.", "N/A", "FINDINGS:", "1. 2.", "XXXX", "[**2010**]", "<DATE>", "")
WORDLESS += ("See above.", "As below", "___ 10:03 p.m.", "-", "Dr. ___", "Not available.")
WORDED = ("No findings.", "Normal.", "Clear", "None of the ribs is fractured.", "Normal study.")
WORDED += ("No acute disease.", "Unchanged.", "PTX", "ET tube is seen.")


def test_a_report_without_words_is_told_from_a_short_one():
    assert [text for text in WORDLESS if has_words(text)] == []
    assert [text for text in WORDED if not has_words(text)] == []


@pytest.mark.parametrize("text", WORDLESS)
def test_sections_without_words_are_none(text):
    assert read_sections(f" FINDINGS: \n {text}\n") == {}
    assert read_sections(f"FINDINGS: {text}\n\nIMPRESSION: Clear lungs.") == {
        "impression": "Clear lungs."
    }


HELD = {
    "name": ("Dr. Smith was called.", "discussed with dr. smith", "Patient name: JOHN DOE")
    + ("Mrs. Jones", "John A. Miller, MD", "SMITH, JOHN, M.D.", "Read by: Miller"),
    "record number": ("MRN: 1234567", "accession # 99812345", "id 20311245", "123-45-6789"),
    "date": ("on 2020-01-02", "1/2/2020", "12.05.2019", "January 5", "seen on Mar 12")
    + ("compared to 5/16", "May 2019", "5 March", "3rd of may 2019"),
    "telephone number": ("call 555-123-4567", "(555) 123-4567"),
    "address": ("a@b.org", "12 Main Street"),
    "age above 89": ("92-year-old", "a 101 year old woman", "94 y.o."),
}
HARMLESS = (
    "Discussed with Dr. ___ at ___.",
    "Dr. XXXX was told.",
    "The dr. was told by phone.",
    "MR SPINE, C5/6 and T10/11 disc disease, 3/4 of the lung, the 10/11 ribs.",
    "There may 3 mm nodules be; 5 may be old. Tube 4.5 cm above the carina; image 5/6.",
    "An 85-year-old, about 90 cm, 95% of it.",
    "No acute cardiopulmonary process. Right IJ catheter, MD Anderson pump.",
)


def test_names_numbers_and_dates_are_seen_and_nothing_else():
    assert HELD.keys() == PATTERNS.keys()
    missed = [
        (kind, text) for kind in HELD for text in HELD[kind] if kind not in identifier_kinds(text)
    ]
    assert missed == []
    assert {text: kinds for text in HARMLESS if (kinds := identifier_kinds(text))} == {}


def test_a_removed_date_is_no_earlier_film():
    assert not speaks_of_priors("Seen at ___ by Dr. XXXX. Degenerative changes.")
    assert speaks_of_priors("Effusion, unchanged since ___.")


def film(number: int, report: dict[str, str], phrase: str | None = None) -> Film:
    box = (0, 0, 1, 1)
    regions = (Region(kind="phrase", name=phrase, box=box),) if phrase else ()
    common = {"source": "s", "patient_id": "p", "split": None, "path": "x", "regions": regions}
    return Film(image_id=f"i{number}", study_id=f"t{number // 2}", report=report, **common)


def test_reports_are_counted_by_study_and_never_quoted(tmp_path: Path, capsys):
    secret = {"findings": "Unchanged. Called Dr. Secretname on 2020-01-02.", "impression": "___"}
    films = [film(n, secret) for n in (0, 1)]  # one study
    films += [film(2, {"findings": "No change."}), film(4, {"findings": "Clear."}), film(6, {})]
    films += [film(8, {}, "Mr. Secretname has a nodule.")]
    with Issues(tmp_path / "f.parquet") as findings:
        check = ReportCheck("s", findings)
        kept = [check.checked(one).report for one in films]
        check.conclude()
    assert kept[:2] == [{"findings": secret["findings"]}] * 2
    assert findings.left_out == {("s", "section of a report without words"): 1}
    rows = read_rows(tmp_path / "f.parquet")
    assert [(row["code"], row["found"]) for row in rows] == [
        ("report-priors", "2 of 3 reports speak of earlier films"),
        ("report-identifiers", "1 reports seem to hold a date"),
        ("report-identifiers", "2 reports seem to hold a name"),
    ]
    assert "Secret" not in str(rows) + "".join(capsys.readouterr())


def test_views_that_are_left_out_are_counted(tmp_path: Path):
    with Issues(tmp_path / "f.parquet") as findings:
        for number, view in enumerate(("LATERAL", None, "LATERAL")):
            findings.set_aside("s", f"{number}.png", view)
    shown = "film of the view {}, not in `views`"
    assert findings.left_out == Counter(
        {("s", shown.format("LATERAL")): 2, ("s", shown.format("unknown")): 1}
    )
