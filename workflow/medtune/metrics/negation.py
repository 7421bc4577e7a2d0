"""Words that deny and doubt findings, how far they reach, and what a heading makes of its line.

All are regular expressions in lower case; `medtune.metrics.labeler` applies them.
"""

import re

# Words by which a finding is said to be there; "acute", "focal" or "large" stand in denials too.
OWN = (
    "small|moderate|moderately|mild|mildly|severe|severely|slight|slightly|minimal|minimally|trace|"
    "tiny|subtle|stable|persistent|persisting|unchanged|increased|increasing|decreased|worsening|"
    "improving|residual|known|patchy|hazy|low|markedly|chronic|enlarged|normal|prominent|widened"
)
STRUCTURE = (  # "no edema, heart failure" goes on, "no edema, heart normal" does not
    r"(?:heart|cardiac|cardio-?mediastinal|mediastinum|mediastinal|lungs|bony|bones|osseous)"
    r"(?! (?:failure|widening|enlargement|mass|shift|lymph|adenopathy|abnormal|lesion|disease|"
    r"injur|"
    r"fracture|decompensation))"
)
SEEN = (
    r"(?:seen|identified|visuali[sz]ed|demonstrated|detected|appreciated|evident|visible|noted|"
    r"found|apparent|observed|shown|recognized|present|confirmed|suspected)"
)
_VERB = r"(?:is|are|was|were|has|have|may|might|could|can|cannot|remains?|persists?)"
_ADVERBS = (
    r"(?:(?:\w+(?:ly|al|ic|[ai]ble|[ae]nt|er)|been|also|yet|much|major|marked|appear|seem|look|to|"
    r"be|have) )*"
)
_CHANGE = (
    r"(?:change[sd]?|interval change|increas(?:e[sd]?|ing)|decreas(?:e[sd]?|ing)|"
    r"improv(?:e|ement|ed|ing)|wors(?:en|ening|ened)|progress(?:ion|ed)|differen(?:ce|t)|"
    r"resolution|clearing|resolving|alteration|reduction|growth|longer (?:absent|clear)|"
    r"enlargement(?= of (?:the |this |these )?(?:[\w-]+ ){0,3}"
    r"(?:effusion|\w*thora[xc]|nodul|mass|lesion|opacit)))"
)
_NEARLY = r"(?:near(?:ly)?|almost|partial(?:ly)?|mostly|incomplete(?:ly)?|largely|essentially)"

_SAYS = r"(?: ?[:=]| \(|\.\.+| [\-\u2013\u2014]+) *"  # "Effusion: none", "effusion (none)"
_STOP = r"(?= *(?:[.,;)]|$))"
_REMOVED = (
    r"(?:removed|explanted|extracted|discontinued|taken out|pulled(?! (?:back|up))|"
    r"withdrawn(?! (?:\w+ )?(?:\d|to|into|from)))"
)

# (kind, reach, ways): cues are tried in this order, and what one takes no other can. They reach
# "forward" to findings behind them, "back" to those before them, or "both"; "lone" is back, or
# forward where nothing stands before it ("Not seen is a pneumothorax").
_CUES: list[tuple[str, str, list[str]]] = [
    (  # looks like a denial and is none
        "present",
        "forward",
        [
            rf"\b(?:no|without|not) {_ADVERBS}{_CHANGE}\b",
            rf"\b(?:is |are |was |were )?not (?:\w+ly |as |well[- ])*{SEEN} (?:on|in) (?:the |a |"
            r"any )?"
            r"(?:\w+ )?(?:prior|previous|earlier|last|outside|comparison|lateral|frontal|pa|ap)\b",
            rf"\bnot (?:previously {SEEN}|{SEEN} (?:previously|before|earlier|prior))\b",
            r"\b(?:to|until|and) (?:confirm|ensure|document|assess|demonstrate|verify|"
            r"show) (?:\w+ )?"
            r"(?:clearing|resolution)(?: of)?\b",
            rf"\bnot {_ADVERBS}(?:any )?(?:larger|smaller|bigger|worse|better)\b",
            r"\bnot without\b",
            r"\bnot (?:free|clear|devoid) (?:of|from)\b",
            r"\bno absence of\b",
            r"\b(?:no|without|beyond)(?: any| a)? doubts?\b",
            r"\bnot absent\b",
            rf"\b(?:tips?|end) of (?:[\w-]+ ){{1,6}}(?:is|are|was|were) (?:not|no longer) "
            rf"(?:\w+ly )?(?:{SEEN}|included)\b",  # the tip hides, the tube is there
            r"\bnot only\b",
            r"\b(?:has|have|had|did|does|do) not (?:\w+ )?(?:resolved?|cleared?|improved?)\b",
            rf"\b{_NEARLY}[ -](?:complete(?:ly)? |total(?:ly)? |fully |interval )?"
            r"(?:resol(?:ved|ution)(?: of)?|clear(?:ed|ing|ance)(?: of)?)\b",
            r"\bnot (?:\w+ )?resolved\b",
        ],
    ),
    (  # doubt that no denial outweighs
        "doubt",
        "back",
        [
            r"\b(?:can ?not|can't|could not|may not|should not|not) (?:\w+ly )?be (?:\w+ly )?"
            r"(?:excluded|ruled out|confirmed|evaluated|assessed)\b",
            r"\b(?:may|might|could|would) not be (?:\w+ly )?" + SEEN + r"\b",
            r"\b(?:may|might|could|can) be (?:radiographically )?"
            r"(?:occult|missed|obscured|hidden)\b",
            r"(?<=\w )(?:in|given) the (?:appropriate|right|proper|correct) (?:clinical )?"
            r"(?:setting|context|scenario)\b",
            r"(?<!\bit )\b(?:is|are|(?:would|could|may|might) be) (?:difficult|hard) to "
            r"(?:exclude|assess|evaluate|confirm)\b(?! (?:an?|any|early|small|subtle)\b)",
            r"\b(?:difficult|hard|impossible) to (?:fully |entirely |completely )?"
            r"(?:exclude|rule out|confirm)(?= *(?:[.,;]|$))",
            r"\b(?:should|must|needs? to|to) be (?:excluded|ruled out)\b",
            r"\b(?:is|are) (?:in|part of|within|among) the (?:\w+ )?differential\b",
            r"\bin (?:the )?(?:\w+ )?differential\b",
            r"\b(?:is|are|seems?|felt|thought|considered|appears?) (?:to be )?(?:\w+ )?"
            r"(?:doubtful|improbable|questionable|equivocal|indeterminate)\b",
            r"[:\-\u2013\u2014] *(?:possibl[ey]|probabl[ey]|(?:un)?likely|suspected|questionable|"
            r"equivocal|"
            r"indeterminate|uncertain|unclear)(?= *(?:[.,;]|$))",
            r"(?<=[a-z])\?$",
        ],
    ),
    (
        "doubt",
        "lone",
        [r"\b(?:(?:is|are|was|were) )?not (?:\w+ )?(?:excluded|ruled out)\b(?: (?:is|are)\b)?"],
    ),
    (  # doubt of findings, but not of devices, whose tips hide
        "unclear",
        "back",
        [
            r"\b(?:is |are |was |were )?not (?:\w+ )?well[- ](?:seen|evaluated|assessed|"
            r"visuali[sz]ed|"
            r"demonstrated|appreciated)\b",
            r"(?:(?<=\btip )|(?<=\bend )|(?<=\btips ))(?:is |are )?(?:not|"
            rf"no longer) (?:\w+ly )?(?:{SEEN}|included)\b",
        ],
    ),
    (
        "unclear",
        "forward",
        [
            r"\blimit(?:s|ed|ing)? (?:the |for )?(?:\w+ )?"
            r"(?:detection|evaluation|assessment|sensitivity)(?: (?:of|for))?\b",
            r"\b(?:evaluation|assessment|sensitivity|detection|visuali[sz]ation) (?:of|for)\b"
            r"(?=.*\b(?:limit|suboptimal|reduced|difficult|degraded|compromised|incomplete|"
            r"precluded|hampered|impossible|decreased|impaired))",
        ],
    ),
    (  # the same, before the finding
        "doubt",
        "forward",
        [
            r"\b(?:can ?not|can't|could not|may not|unable to|do(?:es)? not|not possible to) "
            r"(?:\w+ly )?(?:exclude|rule out|confirm)\b",
            r"\b(?:difficult|hard|impossible) to (?:exclude|rule out|confirm)\b",
            r"\bwould not (?:exclude|rule out)\b",
            r"\bexclusion of\b",
            r"\bdoubt(?:ful|s)?\b(?:(?: that)? there (?:is|are)\b)?",
            r"\b(?:argu|speak|militat)(?:es?|s|ing) against\b",
            r"\bcorrelat\w+ (?:\w+ ){0,4}?(?:for|with|as to)\b",
            r"^(?:in|given) the (?:appropriate|right|proper|correct) (?:clinical )?"
            r"(?:setting|context|scenario),?",
            r"\b(?:to|in) (?:identify|identifying|detect|detecting)\b",
            r"\b(?:may|might|could|can) be (?:seen|associated|found) (?:with|in)\b",
            r"\b(?:may|might|could) not (?:be|represent|reflect)\b",
        ],
    ),
    (
        "absent",
        "back",
        [
            rf"{_SAYS}(?:no|absent|negative|(?:now |since |\w+ly )*(?:resolved|cleared|gone)|"
            rf"(?:not|no longer) {SEEN}|not applicable|n/a|0|-)(?:(?: {SEEN})?{_STOP}|"
            rf"(?: (?:{SEEN}|evidence|acute|new|definite|obvious|significant|suspicious|displaced|"
            r"focal|large|or|and|of))+(?= *(?:[.;)]|$)))",  # "no large, layering effusion" goes on
            rf"{_SAYS}(?:none|nil)\b(?! (?:other|on the (?:left|right))\b)",
            r"\b(?:has|have|had) (?:\w+ly |now |since |also |all )*(?:resolved|cleared|"
            r"disappeared)\b",
            r"\b(?:is|are|was|were) (?:now |\w+ly |all )?(?:resolved|absent|excluded|ruled out|"
            r"gone)\b",
            r"\b(?:has|have|had) (?:since |now )?been (?:\w+ly )?excluded\b",
            rf"\b(?:absent|nil|none|negative){_STOP}",
            r"\b(?:in|on|at) neither\b",
            r"\b(?:is|are|was|were) not(?= *(?:[.,;]|$))",
            r"\b(?:is|are|was|were) neither (?:\w+ly )?(?:seen|present|visible|identified|"
            r"evident)\b",
            r"\b(?:did|do|does|has|have|had) not (?:\w+ )?(?:develop(?:ed)?|recur(?:red)?|"
            r"(?:re)?occur(?:red)?|appear(?:ed)?(?! to)|re-?accumulated?|returned)\b",
            r"\b(?:is |are |appears? |remains? )?within (?:the )?(?:normal (?:limits|range)|"
            r"limits of normal)\b",
            r"\b(?:seen|noted|described|present|visible) (?:previously|before|earlier|"
            r"on prior \w+) "
            r"(?:is|are) (?:not|no longer) (?:\w+ly )?(?:seen|visible|present)\b",
        ],
    ),
    (
        "absent",
        "lone",
        [
            rf"\b(?:no longer|not) (?:\w+ )?(?:{SEEN}|in place|in situ)\b(?! to be)",
            r"\b(?:is|are|was|were) (?:now )?not (?:\w+ly )?" + SEEN + r"\b(?! to be)",
            r"\b(?:(?:now|since|completely|fully) )*(?:resolved|cleared)\b",
        ],
    ),
    (  # speaks of devices alone
        "removed",
        "back",
        [
            rf"\b(?:has|have|had) (?:since |now |also )*been (?:\w+ly )?{_REMOVED}",
            rf"\b(?:was|were|is|are|now|since|interval(?:ly)?) (?:now )?{_REMOVED}",
            rf"{_SAYS}(?:now |since )*{_REMOVED}{_STOP}",
            rf"(?<!rule )(?<!ruled )\bout{_STOP}",
            r"\b(?:removal|explantation)(?! of)\b",
        ],
    ),
    ("removed", "forward", [r"\b(?:removal|explantation|withdrawal) of\b", r"\bextubat\w+\b"]),
    (
        "absent",
        "forward",
        [
            r"\bno longer\b",
            r"\bnot (?:have|having|show(?:ing)?|demonstrate|see|reveal|represent)\b",
            r"\b(?:no|nil|not|nor|neither|nothing|none|without|never|"
            r"cannot (?:see|identify|find))\b",
            r"\b(?:fails?|failed|unable) to (?:show|identify|see|demonstrate|reveal|find)\b",
            r"\b(?:absence|resolution|clearing|clearance) of\b",
            r"\b(?:free|clear|devoid) (?:of|from)\b",
            r"\bnegative for\b",
            r"\b(?:lack|lacks|lacking)(?: of)?\b",
            r"\b(?:denies|exclud(?:es|ing)|rules out)\b",
            r"\babsent\b",
        ],
    ),
    (  # of what is past nothing is said
        "past",
        "forward",
        [
            r"\b(?:history|hx|h/o) (?:of|for)\b|\bhx\b|\bh/o\b",
            r"\b(?:status post|s/p)\b(?= (?:\w+ )?(?:pneumonia|infection|pneumothorax))",
            r"\b(?:sequelae?|residua(?:ls?)?|evidence|changes) (?:of|from|to) "
            r"(?:prior|previous|old|remote)\b(?= (?:\w+ )?(?:infection|pneumonia))",
            r"\b(?:prior|previous|old|remote|recent)\b(?= (?:\w+ ){0,3}(?:infection|pneumonia))",
        ],
    ),
    (  # what is denied or doubted before it stays so
        "same",
        "forward",
        [
            r"\b(?:versus|vs) (?:the )?(?:prior|previous|last|old|comparison)\b",
            r"\b(?:consistent|compatible|in keeping|in line|commensurate) with\b",
            r"\b(?:typical|characteristic|indicative|diagnostic|representative) (?:of|for)\b",
            r"\bassociated with\b(?= (?:a |an )?(?:pneumonia|infection))",
        ],
    ),
    (  # doubt, but what is denied stays denied: "no opacity suspicious for pneumonia"
        "link",
        "forward",
        [
            r"\b(?:suspicious|concerning|worrisome|concerns?) (?:for|of)\b",
            r"\bsuspicion (?:of|for)\b",
            r"\bin favou?r of\b",
            r"\b(?:possibility|question|likelihood) of\b",
            r"\bsuggest(?:s|ed|ive|ing|ion)?\b(?: of\b)?",
            r"\b(?:that|which) (?:may|might|could|would)\b",
            r"\braises? (?:the )?(?:concern|possibility|question|suspicion)\b",
        ],
    ),
    (
        "doubt",
        "both",
        [r"\b(?:(?:less |un|more )likely(?= than)|versus|vs)\b", r"\bfavou?red over\b"],
    ),
    ("doubt", "both", [r"\bunlikely\b", r"\bif (?:any|present)\b,?"]),
    (
        "link",
        "back",
        [
            r"\b(?:is|are|remains?|was|were) (?:\w+ly |also |both |all )?(?:possible|"
            r"suspected|questionable|questioned|considered|favou?red|a (?:\w+ )?possibility|"
            r"(?:a(?:nother)? )?(?:\w+ )?consideration|a (?:\w+ )?concern|raised)\b",
            r"\b(?:may|might|could|can|should|would|must|has to|have to|needs? to) (?:also )?"
            r"be (?:\w+ly )?(?:present|considered|suspected|favou?red|a (?:\w+ )?consideration|"
            r"missed)\b",
            r"\b(?:is |are |be )?(?:likely|probably|possibly|perhaps|"
            r"presumably) (?:also )?present\b",
            r"\b(?:most |also |very |less |more |un)?(?:likely|probable)(?= *(?:[.,;]|$))",
            r"\bfavou?red\b(?! (?:to|as)\b)",
        ],
    ),
    (
        "doubt",
        "forward",
        [
            r"\b(?:possib(?:le|ly|ility)|probabl[ey]|likely|perhaps|potential(?:ly)?|presum(?:ed|"
            r"ably)"
            r"|equivocal|questionable|questioned|suspected|suspicion|conceivabl[ey])\b",
            r"\bsuspects?\b",
            r"\b(?:may|might|could)\b",
            r"\b(?:question|query)(?: of)?\b",
            r"\bfavou?r(?:s|ing|ed)?\b",
            r"\b(?:if|whether)\b(?: there (?:is|are)\b)?",
            r"\bat (?:high|increased|\w+) risk (?:for|of)\b",
            r"\bconsiderations? (?:would |may |could )?includes?\b",
            r"\bdifferential (?:diagnos[ie]s |considerations? )?(?:(?:for|of) [^,;]{0,60}? )?"
            r"(?:would |could |may |also )?(?:includes?|is|are)\b",
            r"\b(?:rather than|differential|consider)\b",
            r"\b(?:rule out|r/o|(?:eval(?:uate|uation|uating)?|assess(?:ment)?|check|look(?:ing)?|"
            r"screen(?:ing)?|search) for|exclude|"
            r"clinical concern)\b",
            r"\bborderline\b|\b(?:simulat|mimic)\w*",
            r"\?",
        ],
    ),
]
CUES = [(kind, reach, re.compile("|".join(ways))) for kind, reach, ways in _CUES]

# Where what a cue says ends; words inside of a cue end nothing.
EXCEPT = re.compile(
    r"\b(?:except(?:ing)?(?: for)?|with the exception of|apart from|aside from|other than|"
    r"besides|save for|outside of)\b"
)
ENDS = re.compile(
    rf"[;:]|{EXCEPT.pattern}|"
    r"\b(?:but|however|(?:al)?though(?! (?:un|less )likely)|yet|whereas|while|otherwise|"
    r"nevertheless|with|"
    r"after|following|status post|s/p|post (?=\w*(?:centesis|removal|placement|procedure|biopsy|"
    r"surgery))|(?:and )?there (?:is|are|has|have))\b|"
    r"\band (?=(?:interval )?(?:placement|insertion|exchange)\b)|"
    rf"\band (?=(?:the|a|an|is|are|has|have|there|it|this|these|in|on|at|{OWN}|{STRUCTURE})\b)|"
    rf"\band (?=(?:[\w-]+ ){{1,4}}(?:is|was|has|remains?|persists?)\b"
    rf"(?! (?:\w+ly |also |now |no longer |not |been )*(?:{SEEN}|absent|resolved|cleared|"
    r"excluded)))"
)
# What begins something new behind a comma, though a cue before it is not yet at its end.
ANEW = re.compile(
    rf"^ *(?:and )?(?:{OWN}|the|a|an|there|(?:\w+ )?(?:left|right|bilateral|bibasilar)|"
    rf"{STRUCTURE})\b"
)
CONCESSION = re.compile(r"^(?:although|(?:even )?though|despite|while|whereas)\b[^,]*$")
CLAUSE = re.compile(
    rf"\b{_VERB}\b(?! (?:\w+ly |also )?(?!present){SEEN}(?! (?:in|at|on|over)\b))|"
    rf"\b(?:noted|seen|identified) (?:in|at|on|over)\b|\bpersists?\b"
)
# Adjectives between a denial and a comma have no noun yet: "no acute, displaced fracture".
UNFINISHED = re.compile(
    r"(?:[ ,]*\b(?>(?:(?!finding)[\w-]+(?:al|ar|ed|ing|ous|ible|able|ive|ic|ute|ant|ent|ry|less)|"
    r"new|"
    r"large|big|gross|overt|frank|clear|definite|sizable|sizeable|small|other|discrete|obvious|or|"
    r"and|any|patchy|hazy|a|an|the|(?:evidence|signs?|findings?|suggestion) (?:of|for|to)|"
    r"-appearing)"
    r"\b))*[ ,]*"
)

HEADING = r"[a-z][a-z/ &-]{0,38}"
PAST_HEADING = re.compile(
    r"^(?:clinical |past |medical |patient |relevant |brief )*(?:history|indications?|information|"
    r"reason(?: for (?:the |this )?\w+)?|clinical (?:details|question|data|notes?)|"
    r"comparisons?|technique|procedure|hx|symptoms?)"
    r"(?: and \w+)? *[:\-\u2013\u2014]"
)
SHORT = {
    "\u2019": "'",
    "can't": "cannot",
    "n't": " not",
    "(-)": "no",
    "(+)": "",
    "vs.": "vs",
    "w/o": "without",
    "w/": "with ",
    "c/w": "consistent with",
    "neg for": "negative for",
}
