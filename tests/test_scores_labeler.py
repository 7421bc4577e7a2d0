"""Sentences and what they say: a table, and properties of the labeler."""

import time

import pytest
from label_sentences import SHORT, STATUS

from medtune.metrics.labeler import read_labels
from medtune.metrics.lexicon import FINDINGS, SIDED
from medtune.sources.chest.labels import LABELS

# label, status, and sides: "ef+l" is an effusion on the left.
SENTENCES = """
No pneumothorax. | pt-
There is no pneumothorax. | pt-
No pneumothorax is seen. | pt-
Pneumothorax is not seen. | pt-
No focal consolidation, effusion or pneumothorax. | co- ef- pt-
No focal consolidation, pleural effusion, or pneumothorax is seen. | co- ef- pt-
No consolidation, effusion, pneumothorax. | co- ef- pt-
Without evidence of pneumonia. | pn-
The lungs are hyperinflated without evidence of consolidation or edema. | co- ed-
Negative for pneumothorax. | pt-
The lungs are free of consolidation. | co-
Lungs are clear of focal consolidation, pleural effusion or pneumothorax. | co- ef- pt-
Absence of pleural effusion. | ef-
Neither pneumothorax nor pleural effusion is present. | pt- ef-
Consolidation, effusion, and pneumothorax are not seen. | co- ef- pt-
No large pleural effusion. | ef-
No new consolidation. | co-
No acute fracture is identified. | fr-
There is a small left pleural effusion. | ef+l
Small bilateral pleural effusions. | ef+lr
Moderate right effusion with adjacent atelectasis. | ef+r at+r
Left lower lobe consolidation. | co+l
Right upper lobe pneumonia. | pn+r
Opacity in the right lung base. | op+r
Bibasilar atelectasis. | at+lr
Cardiomegaly is unchanged. | cm+
Small left effusion and right pneumothorax. | ef+l pt+r
Pneumothorax on the right and effusion on the left. | pt+r ef+l
Bilateral effusions, right greater than left. | ef+lr
Healed right rib fractures. | fr+r
There is a 2.3 cm nodule in the left upper lobe. | le+l
Left apical pleural thickening. | po+l
Mild pulmonary edema. | ed+
Vascular congestion without overt edema. | ed+
Right-sided pneumothorax. | pt+r
No change in the left effusion. | ef+l
No significant interval change in the left pleural effusion. | ef+l
The effusion has not significantly changed. | ef+
No increase in the right pneumothorax. | pt+r
Unchanged left basilar opacity. | op+l
The effusion has resolved. | ef-
The left effusion has nearly resolved. | ef+l
The left effusion has not resolved. | ef+l
Previously seen effusion, now resolved. | ef-
Interval resolution of the pneumothorax. | pt-
The pneumothorax is no longer visible. | pt-
Resolving left lower lobe pneumonia. | pn+l
The chest tube has been removed. | sd-
Interval removal of the endotracheal tube. | sd-
Heart size is normal. | cm-
The heart is not enlarged. | cm-
The heart is mildly enlarged. | cm+
Mild enlargement of the cardiac silhouette. | cm+
Heart size is borderline enlarged. | cm?
Heart size is not normal. | cm+
Heart size and mediastinal contours are normal. | cm- ec-
The cardiomediastinal silhouette is within normal limits. | cm- ec-
The mediastinum is widened. | ec+
No mediastinal widening. | ec-
The heart is enlarged but the mediastinum is normal. | cm+ ec-
The heart is enlarged and the mediastinum is normal. | cm+ ec-
Opacities in the right and left lung bases. | op+lr
Right apical pneumothorax and left lower lobe collapse. | pt+r at+l
Normal heart size and mediastinal contours. | cm- ec-
The lungs are clear. | co- op-
Clear lungs without effusion. | co- op- ef-
Costophrenic angles are sharp. | ef-
Blunting of the left costophrenic angle. | ef?l
No blunting of the costophrenic angles. | ef-
The bony structures are intact. | fr-
Cannot exclude pneumonia. | pn?
Pneumonia cannot be excluded. | pn?
Opacity in the left base, pneumonia cannot be excluded. | op+l pn?
There is a left opacity and pneumonia is suspected. | op+l pn?l
A small effusion is not excluded. | ef?
Possible small right pleural effusion. | ef?r
Opacity may represent atelectasis or pneumonia. | op+ at? pn?
Left basilar opacity, likely atelectasis. | op+l at?l
Retrocardiac opacity suggestive of consolidation. | op+ co?
Atelectasis versus pneumonia. | at? pn?
Pneumonia is unlikely. | pn?
The presence of a pneumothorax is difficult to assess. | pt?
Questionable nodule. | le?
Pleural effusions, if any, are small. | ef?
Findings concerning for edema. | ed?
No opacity suspicious for pneumonia. | op- pn-
No findings to suggest pneumonia. | pn-
Absence of a pneumothorax cannot be confirmed. | pt?
Lungs are not without consolidation. | co+
The left base is not free of effusion. | ef+l
It is not possible to exclude a pneumothorax. | pt?
No pneumothorax, but a small left effusion persists. | pt- ef+l
No pneumothorax, small left effusion. | pt- ef+l
No pneumothorax, and the left effusion is unchanged. | pt- ef+l
There is no pneumothorax and there is a small effusion. | pt- ef+
No effusion; mild cardiomegaly. | ef- cm+
No pneumothorax with a small right effusion. | pt- ef+r
No pneumothorax, basilar opacity may reflect atelectasis. | pt- op+ at?
No pneumothorax, heart size is normal. | pt- cm-
No effusion and normal heart size. | ef- cm-
No left effusion but a small right effusion. | ef+r
Effusion on the left. No effusion on the right. | ef+l
Although there is no pneumothorax, consolidation persists. | pt- co+
Other than mild atelectasis, the lungs are clear. | at+ co- op-
Endotracheal tube ends 4 cm above the carina. | sd+
A dual-lead pacemaker is in place, no pneumothorax. | sd+ pt-
Small hydropneumothorax. | ef+ pt+
Small pericardial effusion. |
Mass effect on the trachea. |
No acute cardiopulmonary process. |
The stomach is distended. |
Left PICC tip projects over the mid SVC. No pneumothorax. | sd+ pt-
The lungs remain clear without focal consolidation, effusion, or edema. | co- op- ef- ed-
Heart size is top normal. | cm-
The cardiac silhouette is at the upper limits of normal. | cm-
There are moderate bilateral pleural effusions with overlying atelectasis. | ef+lr at+lr
Interval increase in right-sided pleural effusion. | ef+r
There has been interval resolution of the right lower lobe opacity. | op-
No displaced fracture is identified. | fr-
Degenerative changes of the spine without acute fracture. | fr-
Multiple old healed left-sided rib fractures are again noted. | fr+l
Ill-defined opacity in the right mid lung could represent pneumonia. | op+r pn?r
The opacity in the right lower lobe is most consistent with pneumonia. | op+r pn+
Asymmetric pulmonary edema versus multifocal pneumonia. | ed? pn?
No radiographic evidence for acute cardiopulmonary process such as pneumonia. | pn-
There is no evidence of failure or pneumonia. | ed- pn-
Cardiomediastinal contours are stable. |
The pulmonary vasculature is not engorged. | ed-
Pneumothorax, if present, is small. | pt?
Tiny left apical pneumothorax has resolved since the prior study. | pt-
No residual pneumothorax after chest tube removal. | pt- sd-
Right chest tube in place with no residual pneumothorax. | sd+ pt-
Nasogastric tube has been withdrawn. | sd-
There is a new right lower lobe opacity, worrisome for pneumonia. | op+r pn?r
Aeration of the left base has improved, with decreased effusion. | ef+
Bilateral hilar enlargement. |
Mild prominence of the cardiac silhouette. | cm?
Enlarged cardiac silhouette and pulmonary vascular congestion. | cm+ ed+
A 5 mm nodule is seen in the right upper lobe, unchanged. | le+r
No pulmonary nodule or mass. | le-
Biapical pleural scarring. | po+lr
No pleural thickening. | po-
Lungs are otherwise clear. | co- op-
Heart and mediastinum are unremarkable. | cm- ec-
Left retrocardiac opacity likely reflects a combination of atelectasis and effusion. | op+l at? ef?
The right hemidiaphragm is elevated. No effusion on either side. | ef-
Severe cardiomegaly, unchanged, without pulmonary edema. | cm+ ed-
Pneumomediastinum without pneumothorax. | pt-
There may be a small left pleural effusion. | ef?l
A small left pleural effusion may be present. | ef?l
Minimal blunting of the right costophrenic sulcus suggests trace effusion. | ef?r
No lobar consolidation to suggest bacterial pneumonia. | co- pn-
Neither lung shows consolidation. | co-
Consolidation in the left upper lobe has cleared. | co-
Stable bilateral opacities compatible with edema rather than pneumonia. | op+lr ed+ pn?
Worsening left lower lobe collapse. | at+l
Dialysis catheter terminates in the right atrium. | sd+
The heart is not grossly enlarged. | cm-
Cardiac size cannot be evaluated. |
Linear opacities at the left base are likely due to scarring or atelectasis. | op+l at?
There is no large pneumothorax or effusion, though a small one may be missed. | pt- ef-
Hyperinflated lungs compatible with emphysema. |
Extensive subcutaneous emphysema limits detection of a small pneumothorax. | pt?
"""
TABLE = [line.split("|") for line in SENTENCES.strip().splitlines()]


def expected(words: str) -> dict[str, tuple[str, set[str]]]:
    names = {"l": "left", "r": "right"}
    return {
        SHORT[one[:2]]: (STATUS[one[2]], {names[side] for side in one[3:]}) for one in words.split()
    }


def found(text: str) -> dict[str, tuple[str, set[str]]]:
    return {label: (one.status, set(one.sides)) for label, one in read_labels(text).items()}


@pytest.mark.parametrize(("sentence", "words"), TABLE, ids=[line[0].strip() for line in TABLE])
def test_what_a_sentence_says(sentence, words):
    told = {
        label: (status, sides if status != "absent" else set())
        for label, (status, sides) in found(sentence).items()
    }
    assert told == expected(words)


def test_the_table_is_large_and_has_every_label():
    assert len(TABLE) >= 80
    assert set(FINDINGS) == set(LABELS) == set(SHORT.values())
    for short in SHORT:
        assert sum(f"{short}+" in words for _, words in TABLE), short
        assert sum(f"{short}-" in words for _, words in TABLE) or short in ("at", "le", "po"), short


@pytest.mark.parametrize(("sentence", "words"), TABLE, ids=[line[0].strip() for line in TABLE])
def test_sides_change_with_the_words_and_nothing_else_does(sentence, words):
    mirrored = sentence.lower().replace("left", "#").replace("right", "left").replace("#", "right")
    turned = {"left": "right", "right": "left"}
    for label, (status, sides) in found(sentence).items():
        assert found(mirrored)[label] == (status, {turned[side] for side in sides})
    assert found(sentence.upper()) == found(sentence)
    assert found("  " + sentence.replace(" ", "\n  ")) == found(sentence)


@pytest.mark.parametrize("label", sorted(SIDED))
def test_every_sided_finding_can_be_denied_and_doubted(label):
    name = label.replace("Lung Lesion", "nodule").replace("Pleural Other", "pleural thickening")
    name = name.lower()
    assert found(f"There is left {name}.")[label] == ("present", {"left"})
    assert found(f"No {name}.")[label][0] == "absent"
    assert found(f"Possible {name}.")[label][0] == "uncertain"
    assert found(f"The {name} has resolved.")[label][0] == "absent"


def test_mentions_of_a_report_are_joined():
    report = "No effusion on the right.\nSmall left effusion. Possible right effusion.\n\nNo edema"
    assert found(report) == {"Pleural Effusion": ("present", {"left"}), "Edema": ("absent", set())}
    assert found("") == {}
    assert found("Pneumonia, in the right clinical context.") == {"Pneumonia": ("present", set())}


ENDLESS = ("no effusion, ", "no ", "effusion ", "left effusion and right edema, no possible ", ", ")
ENDLESS += ("no acute, clear or residual ", "no evidence of a new, ", "effusion: none ")


@pytest.mark.parametrize("words", ENDLESS)
def test_a_text_without_end_is_read_in_time(words):
    """A policy that repeats itself must not hold up the training."""
    start = time.perf_counter()
    read_labels(words * (8000 // len(words)))
    assert time.perf_counter() - start < 2
