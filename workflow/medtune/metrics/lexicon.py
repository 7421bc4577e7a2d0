"""Words of the labeler: how English reports name findings, describe structures and tell a side.

All are regular expressions in lower case, one line per way of saying it. They were written from
general medical knowledge. `medtune.metrics.negation` has the words that deny and doubt.
"""

import re
from re import Pattern

FINDINGS: dict[str, Pattern[str]] = {
    label: re.compile(rf"\b(?:{'|'.join(ways)})\b")
    for label, ways in {
        "Atelectasis": [
            r"(?:micro)?atelecta\w+",
            r"(?<!vertebral )(?<!body )(?<!wedge )(?<!compression )collapse"
            r"(?! of (?:the )?(?:\w+ )?(?:vertebra|[tl]\d))",
            r"collapsed (?:\w+ ){0,2}(?:lobe|lung)",
            r"(?<!body )volume loss",
            r"loss of (?:lung )?volume",
        ],
        "Cardiomegaly": [
            r"cardiomegaly",
            r"cardiac enlargement",
            r"(?<!right )(?<!left )(?:large|enlarged) (?:heart|cardiac (?:silhouette|contour|"
            r"shadow))",
            r"(?:heart|cardiac) size (?:is |appears |remains )?(?:\w+ly )?(?:increased|large)",
            r"(?:(?:cardiothoracic|ct) (?:ratio|index)|ctr) (?:is |appears )?(?:\w+ly )?"
            r"(?:increased|elevated|enlarged)",
            r"diameter of the heart (?:is |appears )?(?:\w+ly )?(?:increased|enlarged)",
            r"increased (?:cardiothoracic ratio|heart size|cardiac size)",
        ],
        "Consolidation": [r"consolidat(?:ion|ions|ive|ed)"],
        "Edema": [
            r"(?<!tissue )(?<!peripheral )(?<!wall )(?<!subcutaneous )(?<!leg )(?<!marrow )o?edema"
            r"(?! (?:of|in) (?:the )?(?:soft|chest wall|subcutaneous|legs?|ankles?))",
            r"(?:vascular|pulmonary|pulmonary vascular|pulmonary venous|central) congestion",
            r"(?:vascular|pulmonary|venous) congestive changes?",
            r"(?<!chronic )congestion(?= (?:without|or|and|with) (?:\w+ )?edema)",
            r"(?:vascular|venous|vessel) (?:prominence|engorgement|indistinctness)",
            r"(?:engorgement|cephali[sz]ation|redistribution) of (?:the )?(?:\w+ ){0,2}"
            r"(?:vasculature|vessels|vascularity|flow|blood flow)",
            r"prominence of (?:the )?(?:\w+ ){0,2}(?:vasculature|vascularity)",
            r"(?:vascular |venous )?cephali[sz]ation(?! of)",
            r"(?:vascular|venous) redistribution",
            r"pulmonary venous hypertension",
            r"(?:congestive )?(?:heart|cardiac|ventricular) failure",
            r"(?<!renal )(?<!respiratory )(?<!kidney )(?<!hepatic )(?<!liver )(?<!hardware )"
            r"failure(?! to| of)",
            r"chf",
            r"(?:fluid|volume) overload",
            r"kerley(?: ?-?[ab])?(?: ?-?lines)?",
        ],
        "Enlarged Cardiomediastinum": [
            r"(?:cardio)?mediastinal (?:widening|enlargement)",
            r"(?:wide|widened|enlarged) (?:\w+ )?(?:cardio)?mediastin(?:um|al (?:contours?|"
            r"silhouette))",
        ],
        "Fracture": [
            r"(?<!catheter )(?<!lead )(?<!wire )(?<!screw )fractures?(?! of (?:the )?(?:\w+ ){0,4}"
            r"(?:leads?|wires?|screws?|catheter|hardware))",
            r"(?<!screw is )(?<!wire is )(?<!lead is )(?<!wires are )(?<!leads are )fractured"
            r"(?! (?:\w+ )?(?:leads?|wires?|screws?|catheter|hardware))",
        ],
        "Lung Lesion": [
            r"(?:nodul(?:e|es|ar)|micronodul\w+)(?: (?:opacity|opacities|density|densities))?",
            r"(?<!breast )(?<!abdominal )(?<!renal )(?<!body )(?<!bone )mass(?:es|like|-like)?"
            r"(?! effect)",
            r"(?:lung|pulmonary|cavitary|cavitating|parenchymal) lesions?",
            r"metasta(?:sis|ses|tic)(?: disease)?",
            r"granulomas?",
            r"tumou?rs?",
            r"neoplasms?",
            r"cavit(?:y|ies|ation)(?<!pleural cavity)(?<!thoracic cavity)(?<!pleural cavities)",
            r"(?:lung|pulmonary|bronchogenic|bronchial|hilar) (?:cancers?|malignanc(?:y|ies))",
            r"(?<!breast )(?<!prostate )(?<!cell )(?:adeno)?carcinomas?",
        ],
        "Lung Opacity": [
            r"opacit(?:y|ies)",
            r"opacifi(?:cation|cations|ed)",
            r"infiltrat(?:e|es|ion|ions)",
            r"air-?\s?space (?:disease|process)",
            r"haziness",
            r"shadowing",
            r"ground[- ]glass",
        ],
        "Pleural Effusion": [
            r"(?:hydropneumothora\w+|h(?:a?)emo(?:pneumo)?thora\w+|hydrothora\w+)",
            r"(?<!pericardial )(?<!joint )(?<!shoulder )(?<!knee )(?<!ear )effusions?"
            r"(?! (?:in|of) the (?:\w+ )?(?:joint|shoulder|pericardium))",
            r"pleural (?:and|or) pericardial effusions?",
            r"pleural (?:fluid|collections?)",
            r"fluid in the (?:\w+ )?fissures?",
            r"fissural fluid",
        ],
        "Pleural Other": [
            r"(?:pleural|pleuro-?parenchymal)(?:[- ]based|[- ]parenchymal)? "
            r"(?:thickening|plaques?|calcifications?|scar\w*|masse?s?)",
            r"(?:thickening|calcification|scarring) of the (?:\w+ )?pleura",
            r"(?:apical|pleuroparenchymal) (?:pleural )?(?:capping|cap)|apical pleural scar\w*",
            r"fibrothorax",
            r"mesothelioma",
        ],
        "Pneumonia": [
            r"(?:broncho|broncho-)?pneumonias?",
            r"pna",
            r"(?<!radiation )(?<!hypersensitivity )pneumonitis",
            r"pneumonic (?:process|infiltrate|consolidation|changes?)",
            r"(?<!granulomatous )(?<!tuberculous )(?<!tract )(?<!wound )"
            r"infecti(?:on|ons|ous process|ous etiology)",
        ],
        "Pneumothorax": [
            r"(?:hydro|h(?:a?)emo)?pneumothora(?:x|ces|xes)",
            r"pleural air(?: collections?)?",
            r"ptx",
        ],
        "Support Devices": [
            r"(?:endotracheal|et|ng|og|nasogastric|orogastric|enteric|feeding|dobbhoff|chest|"
            r"thoracostomy|tracheostomy|pleural|drainage|pigtail|mediastinal|surgical|t) "
            r"(?:tubes?|catheters?|drains?)",
            r"(?:ett|ngt|ogt|tracheostomy|trach|cannulas?)(?! (?:placement|insertion))",
            r"(?<!bronchial )(?<!fallopian )tubes?|tubing|catheters?|drains",
            r"pace-?makers?|defibrillators?|neuro-?stimulators?|stimulators?(?: leads?)?|"
            r"generators?|loop recorders?",
            r"(?:pacer|pacing|pacemaker|a?icd)s?(?: leads?| wires?)?",
            r"(?:ekg|ecg|telemetry|monitor(?:ing)?|cardiac|defibrillator|overlying|external|pacing|"
            r"ventricular|atrial) (?:leads?|wires?|electrodes?)",
            r"leads? (?:\w+ ){0,2}(?:project|overl|termin|are |is |in )\w*",
            r"picc(?:s|'s)?(?: lines?)?",
            r"(?:central(?: venous)?|subclavian|jugular|ij|swan[- ]ganz|dialysis|arterial|cvc|"
            r"vascular access|indwelling) lines?",
            r"(?:right|left|bilateral) (?:ij|internal jugular|subclavian)(?! (?:vein|artery|"
            r"vessels?|"
            r"region|stenosis))",
            r"lines? (?:and|or|/) tubes?|lines?/tubes?|(?<=no )lines|^lines(?=:)",
            r"(?:porta?-?\s?a?-?\s?cath(?:eter)?|portacatheter|infusa-?ports?|mediports?|"
            r"chemo-?ports?|med-?ports?|power-?ports?)s?",
            r"(?:chest|chemotherapy|infusion|subclavian|access|jugular)(?: wall)? ports?|"
            r"port (?:tip|catheter|in place|reservoir)",
            r"(?:support|monitoring|medical|cardiac|electronic|closure|implanted|indwelling|assist|"
            r"rhythm|impella|infusion) (?:support )?devices?|^devices(?=:)|(?<=or )devices",
            r"swan[- ]ganz|cordis|hickman|lvad|iabp|tavr|ecmo|impella|watchman|groshong|permcath|"
            r"vp shunt|aed",
            r"(?:sternotomy|sternal|cerclage) (?:wires?|hardware)|sternotomy with (?:\w+ )?wires",
            r"(?:prosthetic|mechanical|bioprosthetic|artificial) (?:\w+ )?valves?",
            r"(?:valve|valvular) (?:\w+ )?(?:replacements?|prosthes[ie]s|repair|rings?)|"
            r"prosthetic (?:heart|valve)|annuloplasty(?: ring)?",
            r"arthroplast\w+|(?<!breast )prosthes[ie]s|occluders?",
            r"stents?",
            r"intubated|u[av]c|cv[cl]s?",
            r"balloon pump",
            r"(?:ivc|vena cava) filters?",
            r"(?<!nipple )(?<!skin )(?<!no )hardware|(?:surgical|fixation|fusion) (?:plates?|"
            r"rods?|screws?)",
            r"tips? (?:\w+ ){0,8}(?:svc|ivc|superior vena cava|cavoatrial|atrio-?caval|"
            r"caval atrial|carina)",
        ],
    }.items()
}

# What is denied where nothing is abnormal, and what is normal then.
ABNORMALITY = re.compile(r"\b(?:abnormal\w*|findings?|patholog\w*|diseases?|process(?:es)?)\b")
ALL_NORMAL = re.compile(
    r"\b(?:is|are|appears?|looks?) (?:\w+ly )?(?P<word>normal|unremarkable|clear)\b(?! of)|"
    r"\b(?P<before>normal|unremarkable) (?:chest|film|radiograph|study|examination|exam|x-?ray)\b"
)

_HEART = (
    r"\b(?:heart|cardiac|cardiothoracic (?:ratio|index)|ctr)\b(?! failure)"
    r"(?: size| silhouette| contours?| shadow| borders?)*"
)
_LARGE = r"(?:borderline )?(?:enlarge(?:d|ment)|widen(?:ed|ing))|wide|borderline|prominen(?:t|ce)"
_LARGE_HEART = _LARGE + r"|(?:is|are|appears?|remains?|looks?) (?:\w+ly )?(?:large|big)"
_USUAL = r"normal|unremarkable|within (?:normal )?limits|upper limits? of normal"
_USUAL_HEART = (
    _USUAL + r"|(?:(?<=size is )|(?<=size )|(?<=ratio is )|(?<=heart is )|(?<=heart ))"
    r"not (?:\w+ly )?(?:increased|large|big)"
)
_CONGESTED = r"congested|engorged|indistinct|prominen(?:t|ce)|cephali[sz]\w+|redistributed"
_NEVER = r"(?!)"
_PLAIN = r"(?<!not )(?:normal|unremarkable|within (?:normal )?limits)"  # else nothing is told
_NO_INJURY = (
    r"no (?:(?!change|in|of|with)\w+ ){0,4}"
    r"(?=(?:bony|bone|osseous|skeletal|rib) (?:abnormalit|injur|patholog|trauma))"
)

# What is described, not named: structure, (words if abnormal, labels), (words if normal, labels).
STRUCTURES = [
    (
        re.compile(structure),
        (re.compile(rf"\b(?:{bad})\b"), of_bad),
        (re.compile(rf"\b(?:{good})\b"), of_good),
    )
    for structure, (bad, of_bad), (good, of_good) in (
        (
            r"\bcardio-?mediastin(?:al|um)\b",
            (_LARGE, ["Enlarged Cardiomediastinum"]),
            (_USUAL, ["Cardiomegaly", "Enlarged Cardiomediastinum"]),
        ),
        (_HEART, (_LARGE_HEART, ["Cardiomegaly"]), (_USUAL_HEART, ["Cardiomegaly"])),
        (
            r"\bmediastin(?:al|um)\b(?! lymph| adenopathy| shift)",
            (_LARGE, ["Enlarged Cardiomediastinum"]),
            (_USUAL, ["Enlarged Cardiomediastinum"]),
        ),
        (
            r"\b(?:vasculature|vascularity|vascular (?:markings|margination)|"
            r"(?<!great )(?<!mediastinal )vessels)\b",
            (_CONGESTED, ["Edema"]),
            (_PLAIN, ["Edema"]),
        ),
        (r"\blungs?\b", (_NEVER, []), (r"clear(?! of)", ["Consolidation", "Lung Opacity"])),
        (
            r"\bcostophrenic (?:angles?|sulc(?:us|i)|recess(?:es)?)\b",
            (r"blunt(?:ed|ing)", ["Pleural Effusion"]),
            (r"clear(?! of)|sharp", ["Pleural Effusion"]),
        ),
        (
            r"\bpleural (?:spaces?|cavit(?:y|ies))\b",
            (_NEVER, []),
            (rf"clear(?! of)|{_PLAIN}", ["Pleural Effusion"]),
        ),
        (
            r"\b(?:bon(?:es|y)|osseous|skeletal|ribs?)\b",
            (_NEVER, []),
            (rf"intact|{_PLAIN}|{_NO_INJURY}", ["Fracture"]),
        ),
    )
]
# What such a word says of these labels is never certain.
DOUBTFUL = re.compile(r"borderline|prominen|blunt")
DOUBTED = {"Cardiomegaly", "Enlarged Cardiomediastinum", "Pleural Effusion"}

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
