"""Word lists of the labeller: how English reports name findings, deny them and doubt them.

All are regular expressions in lower case. They were written from general medical knowledge, for
readability first: one line per way of saying it.
"""

import re
from re import Pattern

# Words by which a finding is said to be there; "acute", "focal" or "large" stand in denials too.
OWN = (
    "small|moderate|moderately|mild|mildly|severe|severely|slight|slightly|minimal|minimally|trace|"
    "tiny|subtle|stable|persistent|persisting|unchanged|increased|increasing|decreased|worsening|"
    "improving|residual|known|patchy|hazy|low|markedly|chronic|enlarged|normal|prominent|widened"
)

FINDINGS: dict[str, Pattern[str]] = {
    label: re.compile(rf"\b(?:{'|'.join(ways)})\b")
    for label, ways in {
        "Atelectasis": [
            r"atelecta\w+",
            r"(?:lobar|lobe|lung|segmental|pulmonary) collapse",
            r"collapse of the (?:\w+ ){0,2}(?:lobe|lung)",
            r"volume loss",
            r"loss of (?:lung )?volume",
        ],
        "Cardiomegaly": [r"cardiomegaly", r"cardiac enlargement"],
        "Consolidation": [r"consolidat(?:ion|ions|ive|ed)"],
        "Edema": [
            r"o?edema",
            r"(?:vascular|pulmonary|pulmonary vascular|pulmonary venous) congestion",
            r"(?:congestive )?heart failure",
            r"chf",
            r"(?:fluid|volume) overload",
            r"kerley(?: b)?(?: lines)?",
        ],
        "Enlarged Cardiomediastinum": [r"mediastinal (?:widening|enlargement)"],
        "Fracture": [r"fracture(?:s|d)?"],
        "Lung Lesion": [
            r"(?:nodul(?:e|es|ar)|micronodul\w+)(?: (?:opacity|opacities|density|densities))?",
            r"mass(?:es|like|-like)?(?! effect)",
            r"(?:lung|pulmonary|cavitary|cavitating) lesions?",
            r"metasta(?:sis|ses|tic)(?: disease)?",
            r"granulomas?",
            r"tumou?rs?",
            r"neoplasms?",
            r"cavit(?:y|ies|ation)",
        ],
        "Lung Opacity": [
            r"opacit(?:y|ies)",
            r"opacifi(?:cation|cations|ed)",
            r"infiltrat(?:e|es|ion|ions)",
            r"air-?\s?space disease",
            r"haziness",
            r"ground[- ]glass",
        ],
        "Pleural Effusion": [
            r"(?:hydropneumothora\w+|h(?:a?)emothora\w+|hydrothora\w+)",
            r"(?<!pericardial )effusions?",
            r"pleural fluid",
            r"fluid in the (?:\w+ )?fissures?",
        ],
        "Pleural Other": [
            r"pleural(?:[- ]based)? (?:thickening|plaques?|calcifications?|scar\w*|masse?s?)",
            r"(?:thickening|calcification|scarring) of the (?:\w+ )?pleura",
            r"fibrothorax",
            r"mesothelioma",
        ],
        "Pneumonia": [
            r"(?:broncho)?pneumonias?",
            r"pneumonic (?:process|infiltrate|consolidation)",
            r"infecti(?:on|ons|ous process|ous etiology)",
        ],
        "Pneumothorax": [r"(?:hydro)?pneumothora(?:x|ces|xes)"],
        "Support Devices": [
            r"(?:endotracheal|et|ng|og|nasogastric|orogastric|enteric|feeding|dobbhoff|chest|"
            r"thoracostomy|tracheostomy|pleural|drainage|pigtail) (?:tubes?|catheters?|drains?)",
            r"tubes?",
            r"catheters?",
            r"pace-?makers?",
            r"(?:pacer|pacing|icd|defibrillator|aicd)(?: leads?| wires?)?",
            r"picc(?: lines?)?",
            r"(?:central (?:venous )?|subclavian |jugular |swan-ganz |dialysis |arterial )lines?",
            r"port-?a-?caths?",
            r"mediports?",
            r"(?:support|monitoring) devices?",
            r"sternotomy wires",
            r"(?:prosthetic|mechanical) valves?",
            r"stents?",
            r"balloon pump",
        ],
    }.items()
}

_HEART = r"\b(?:heart|cardiac)\b(?! failure)(?: size| silhouette| contours?| shadow| borders?)*"
_LARGE = r"(?:borderline )?(?:enlarge(?:d|ment)|widen(?:ed|ing))|borderline|prominen(?:t|ce)"
_USUAL = r"normal|unremarkable|within (?:normal )?limits"

# What is described, not named: structure, (words if abnormal, labels), (words if normal, labels).
STRUCTURES = [
    (
        re.compile(one),
        (re.compile(rf"\b(?:{bad})\b"), of_bad),
        (re.compile(rf"\b(?:{good})\b"), of_good),
    )
    for one, (bad, of_bad), (good, of_good) in (
        (
            r"\bcardio-?mediastin(?:al|um)\b",
            (_LARGE, ["Enlarged Cardiomediastinum"]),
            (_USUAL, ["Cardiomegaly", "Enlarged Cardiomediastinum"]),
        ),
        (_HEART, (_LARGE, ["Cardiomegaly"]), (_USUAL, ["Cardiomegaly"])),
        (
            r"\bmediastin(?:al|um)\b(?! lymph| adenopathy| shift)",
            (_LARGE, ["Enlarged Cardiomediastinum"]),
            (_USUAL, ["Enlarged Cardiomediastinum"]),
        ),
        (r"\blungs?\b", (r"(?!)", []), (r"clear(?! of)", ["Consolidation", "Lung Opacity"])),
        (
            r"\bcostophrenic (?:angles?|sulc(?:us|i)|recess(?:es)?)\b",
            (r"blunt(?:ed|ing)", ["Pleural Effusion"]),
            (r"clear(?! of)|sharp", ["Pleural Effusion"]),
        ),
        (r"\b(?:bon(?:es|y)|osseous|ribs?)\b", (r"(?!)", []), (r"intact", ["Fracture"])),
    )
]
DOUBTFUL = re.compile(r"borderline|prominen|blunt")  # what such a word says is never certain

_CHANGE = (
    r"(?:change[sd]?|interval change|increase[sd]?|decrease[sd]?|improve(?:ment|d)|"
    r"wors(?:ening|ened)|progress(?:ion|ed)|difference)"
)
_ADVERBS = r"(?:(?:\w+ly|interval|relevant|significant|substantial|appreciable|yet|been) )*"

# Cues are tried in this order, and what one has taken no other can: longer ways come first.
CUES: list[tuple[str, Pattern[str]]] = [
    (kind, re.compile(rf"(?:{'|'.join(ways)})"))
    for kind, ways in (
        (  # looks like a denial and is none
            "none",
            [
                rf"\b(?:no|without|not) {_ADVERBS}{_CHANGE}\b",
                r"\bnot without\b",
                r"\bnot (?:free|clear) of\b",
                r"\bno absence of\b",
                r"\bnot absent\b",
                r"\bnot only\b",
                r"\b(?:has|have|had) not (?:\w+ )?(?:resolved|cleared)\b",
                r"\b(?:not (?:\w+ )?|in?completely |partially |nearly |mostly |almost )resolved\b",
                r"\bno longer (?:absent|clear)\b",
            ],
        ),
        (  # doubt that no denial outweighs; after the finding
            "doubt after",
            [
                r"\b(?:can ?not|can't|could not|may not|should not) be (?:\w+ly )?"
                r"(?:excluded|ruled out|confirmed|evaluated|assessed)\b",
                r"\b(?:is|are|was|were) not (?:\w+ )?(?:excluded|ruled out|well (?:seen|evaluated|"
                r"assessed|visuali[sz]ed))\b",
                r"\bnot (?:entirely |completely |definitively )?(?:excluded|ruled out)\b",
                r"\b(?:is|are) (?:difficult|hard) to (?:exclude|assess|evaluate)\b",
                r"\bif (?:any|present)\b",
            ],
        ),
        (  # the same, before the finding
            "doubt",
            [
                r"\b(?:can ?not|can't|could not|may not|unable to|do(?:es)? not) (?:\w+ly )?"
                r"(?:exclude|rule out|confirm)\b",
                r"\b(?:difficult|hard|impossible) to (?:exclude|rule out)\b",
                r"\blimits? (?:the )?(?:detection|evaluation|assessment)\b",
            ],
        ),
        (
            "absent after",
            [
                r"\b(?:has|have|had) (?:\w+ly |now |since |also )*(?:resolved|cleared)\b",
                r"\b(?:is|are|was|were) (?:now |\w+ly )?(?:resolved|absent|excluded|ruled out)\b",
                r"\b(?:has|have|had) (?:since |now )?been (?:\w+ly )?"
                r"(?:removed|withdrawn|excluded)\b",
                r"\b(?:was|were) removed\b",
                r"\bno longer (?:\w+ )?(?:seen|present|visible|identified|evident|"
                r"appreciated|visuali[sz]ed|detected|apparent)\b",
                r"\b(?:is|are|was|were) not (?:\w+ly )?(?:seen|present|visible|identified|evident|"
                r"appreciated|visuali[sz]ed|detected|apparent|demonstrated|found|noted)\b",
                r"\bnot (?:seen|identified|evident|visuali[sz]ed|detected|demonstrated)\b",
                r"\b(?:now |since )?(?:resolved|cleared)\b",
            ],
        ),
        (
            "absent",
            [
                r"\bno longer\b",
                r"\b(?:no|not|nor|neither|without|never)\b",
                r"\b(?:absence|resolution|clearing|removal) of\b",
                r"\b(?:free|clear|clearance) of\b",
                r"\bnegative for\b",
                r"\b(?:lack|lacks|lacking)(?: of)?\b",
                r"\b(?:denies|exclud(?:es|ing)|rules out)\b",
                r"\babsent\b",
            ],
        ),
        (  # doubt, but what is denied stays denied: "no opacity suspicious for pneumonia"
            "link",
            [
                r"\b(?:suspicious|concerning|worrisome|concern) for\b",
                r"\bsuggest(?:s|ed|ive|ing|ion)?\b",
                r"\bthat (?:may|might|could|would)\b",
            ],
        ),
        ("doubt around", [r"\b(?:unlikely|versus|vs)\b"]),
        (
            "link after",
            [
                r"\b(?:is|are|remains?) (?:\w+ly )?(?:possible|suspected|questionable|questioned|"
                r"considered|a possibility|a consideration|a concern)\b",
                r"\b(?:may|might|could) (?:also )?be (?:\w+ly )?(?:present|considered)\b",
            ],
        ),
        (
            "doubt",
            [
                r"\b(?:possib(?:le|ly|ility)|probabl[ey]|likely|perhaps|potential(?:ly)?|presum(?:ed|ably)"
                r"|equivocal|questionable|questioned|suspected|suspicion)\b",
                r"\bsuspect\b",
                r"\b(?:may|might|could)\b",
                r"\bquestion(?: of)?\b",
                r"\b(?:rather than|differential|consider)\b",
                r"\b(?:rule out|r/o|evaluate for|assess for|exclude)\b",
                r"\bborderline\b",
                r"\?",
            ],
        ),
    )
    for ways in [ways]
]

# Where what a cue says ends, and a word that ends it behind a comma or "and" (see `labeller`).
ENDS = re.compile(
    r";|:|\b(?:but|however|although|though|except|yet|whereas|while|apart from|aside from|"
    r"other than|otherwise|nevertheless|with|there (?:is|are|has|have))\b|"
    rf"\band (?=(?:the|a|an|is|are|has|have|there|it|this|these|in|on|at|{OWN})\b)"
)
ANEW = re.compile(
    rf"^ *(?:and )?(?:{OWN}|the|a|an|there|(?:\w+ )?(?:left|right|bilateral|bibasilar))\b|"
    r"\b(?:is|are|was|were|has|have|may|might|could|can|cannot|remains?|seen|noted|persists?)\b"
)

SIDES: list[tuple[Pattern[str], frozenset[str]]] = [
    (re.compile(rf"\b(?:{words})\b"), frozenset(sides))
    for words, sides in (
        (
            r"bilateral(?:ly)?|bibasil?ar|bibasal|biapical|both (?:lungs?|sides|bases|apices|"
            r"hemithoraces|\w+ (?:lobes|lungs))|left and right|right and left|"
            r"(?:left|right) (?:greater|more|larger) than (?:the )?(?:left|right)",
            ("left", "right"),
        ),
        (r"left(?:-sided)?|l[ul]l|lingula(?:r)?", ("left",)),
        (r"right(?:-sided)?(?! clinical)|r[uml]l", ("right",)),
    )
]
SIDED = frozenset(
    {
        *("Atelectasis", "Consolidation", "Fracture", "Lung Lesion", "Lung Opacity"),
        *("Pleural Effusion", "Pleural Other", "Pneumonia", "Pneumothorax"),
    }
)
"""Labels of which a side is told: of the heart and of devices "left" says something else."""
