"""Whether label maps and regions can be right, from the volumes of the labels of all cases."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from scipy.stats import binom

from medtune.records.case import REGIONS, Usual
from medtune.records.issue import CheckedCase, Issue
from medtune.sources import usual_of
from medtune.sources.brain.brats import RELEASES, named_alike
from medtune.sources.check_mask import unknown_codes

# A source is accused where a right one would look like it at most this often.
CHANCE = 0.05


def region_ml(case: CheckedCase, region: str) -> float:
    """Return the volume of a region in mL, by the labels of a case."""
    return sum(ml for name, ml in case.labels_ml.items() if name in REGIONS[region])


def without_region(cases: Sequence[CheckedCase], region: str) -> dict[str, dict[str, int]]:
    """Return source -> how many of its cases have a mask, and how many lack the region."""
    counts: dict[str, dict[str, int]] = defaultdict(lambda: {"masks": 0, "without": 0})
    for case in cases:
        if case.labels_ml:
            counts[case.case.source]["masks"] += 1
            counts[case.case.source]["without"] += not region_ml(case, region)
    return dict(sorted(counts.items()))


def region_findings(cases: Sequence[CheckedCase], region: str) -> list[Issue]:
    """Return an error for every case that has labels, but none of the region that is looked for.

    Sources that hold cases without a tumor by their configuration are not concerned.
    """
    counts = without_region(cases, region)
    return [
        Issue(
            code="region-missing",
            severity="error",
            case=case.case.id,
            found=f"no {region}, but {_present(case.labels_ml)}; {count['without']} of "
            f"{count['masks']} cases of the source have no {region}",
            expected=f"some {region} (`task.region`)",
            remedy="set `sources[].allow_empty_masks: true` if such cases are negatives, or choose "
            "another `task.region`",
        )
        for case in cases
        if not case.allow_empty_masks
        and any(case.labels_ml.values())
        and not region_ml(case, region)
        for count in [counts[case.case.source]]
    ]


def label_map_findings(cases: Sequence[CheckedCase]) -> list[Issue]:
    """Return a finding for every source whose label codes can hardly mean what is read.

    Warning `label-map`: what most cases of the kind are like (`usual`) does not hold in most of
    these, and by chance so few would be like it in at most 5 of 100 right sources of as many cases.
    Error `label-map`, for every case: a mask of the source has a code that only another release
    with the same names knows, in which the other codes mean something else.
    """
    sources: dict[str, list[CheckedCase]] = defaultdict(list)
    for case in cases:
        sources[case.case.source].append(case)
    findings = []
    for name, members in sorted(sources.items()):
        findings += _other_release(members) or [
            Issue(
                code="label-map",
                severity="warning",
                case=name,
                found=text,
                expected=f"as in about {usual.share:.0%} of such cases or more",
                remedy=f"look at some masks: {usual.otherwise}; else do nothing",
            )
            for usual in usual_of(members[0].kind)
            if (text := _unusual(members, usual))
        ]
    return findings


def _unusual(cases: Sequence[CheckedCase], usual: Usual) -> str | None:
    """Say how many cases are unlike most of their kind, if that is no chance."""
    known = {name for case in cases for name in case.labels_ml}
    if any(names and not known.intersection(names) for names in (usual.more, usual.less)):
        return None  # the label map has no such labels
    volumes = [
        [sum(case.labels_ml.get(name, 0) for name in names) for names in (usual.more, usual.less)]
        for case in cases
        if region_ml(case, "WT")
    ]
    if usual.less:
        volumes = [pair for pair in volumes if any(pair)]
    like = sum(more >= less if usual.less else more > 0 for more, less in volumes)
    few = like < len(volumes) / 2 and binom.cdf(like, len(volumes), usual.share) <= CHANCE
    if not few:
        return None
    more, less = " and ".join(usual.more), " and ".join(usual.less)
    what = f"{more} is smaller than {less}" if less else f"there is no {more}"
    return f"{what} in {len(volumes) - like} of {len(volumes)} cases with a tumor"


def _other_release(cases: Sequence[CheckedCase]) -> list[Issue]:
    """Return an error for every case if another one shows that the source is another release."""
    kind = cases[0].kind
    rivals = [other for other in named_alike(kind) if _contradict(kind, other)]
    proof = next((c for c in cases if rivals and _has_codes_of(rivals[0], c)), None)
    if proof is None:
        return []
    return [
        Issue(
            code="label-map",
            severity="error",
            case=case.case.id,
            found=f"{proof.case.id} has a code that `{kind}` does not know",
            expected=f"the codes of `{kind}` in every case; those of `{rivals[0]}`, which names "
            "its cases alike, mean something else",
            remedy=f"set `sources[].kind: {rivals[0]}`, or correct that mask",
        )
        for case in cases
    ]


def _contradict(kind: str, other: str) -> bool:
    """Return whether two releases give one code two names."""
    one, two = RELEASES[kind].labels, RELEASES[other].labels
    return any(one[code] != two[code] for code in one.keys() & two.keys())


def _has_codes_of(kind: str, case: CheckedCase) -> bool:
    """Return whether a mask holds codes that its kind does not know and another one does."""
    unknown = {code for finding in case.findings for code in unknown_codes(finding)}
    return bool(unknown) and unknown <= RELEASES[kind].labels.keys()


def _present(labels_ml: Mapping[str, float]) -> str:
    return ", ".join(f"{ml:.2f} mL {name}" for name, ml in labels_ml.items() if ml)
