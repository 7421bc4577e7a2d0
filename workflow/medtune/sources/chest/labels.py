"""The 13 labels of chest films, and one policy for what labelers leave open."""

from collections.abc import Mapping

from medtune.config.chest_sources import LabelPolicy
from medtune.records.film import LabelState
from medtune.sources.chest.issues import Issues

LABELS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Enlarged Cardiomediastinum",
    "Fracture",
    "Lung Lesion",
    "Lung Opacity",
    "Pleural Effusion",
    "Pleural Other",
    "Pneumonia",
    "Pneumothorax",
    "Support Devices",
)
NO_FINDING = "No Finding"
# A device is no disease: a film with one may still be without findings.
DEVICES = "Support Devices"
SAID: dict[str, LabelState] = {"1": "present", "0": "absent", "-1": "uncertain"}
UNCERTAIN: dict[str, LabelState] = {"ones": "present", "zeros": "absent", "ignore": "uncertain"}


class LabelError(ValueError):
    """A labeler's row cannot be understood."""


def read_labels(
    row: Mapping[str, object], policy: LabelPolicy
) -> tuple[dict[str, LabelState], bool | None, bool]:
    """Return what a labeler's row says of the 13 labels, after the policy.

    "No Finding" makes every label absent that the row does not mention, but Support Devices. Where
    the row contradicts it (a label that is present or uncertain), the label counts and not it. A
    row that says nothing at all stays unknown under every policy.

    Args:
        row: Label -> 1 (present), 0 (absent), -1 (uncertain) or nothing, as number or text;
            "No Finding" and labels may be missing.
        policy: What uncertain and blank become.

    Returns:
        The labels; whether there are no findings (None: nobody says); whether the row contradicts
        itself.

    Raises:
        LabelError: A value is none of these.
    """
    said = {name: _said(name, row.get(name)) for name in (*LABELS, NO_FINDING)}
    mentioned = any(said.values())
    verdict = said.pop(NO_FINDING)
    nothing = verdict == "present"
    diseases = {value for name, value in said.items() if name != DEVICES}
    contradicts = nothing and bool(diseases & {"present", "uncertain"})
    nothing = nothing and not contradicts
    labels: dict[str, LabelState] = {}
    for name, value in said.items():
        if value == "uncertain":
            labels[name] = UNCERTAIN[policy.uncertain]
        elif value is not None:
            labels[name] = value
        elif (nothing and name != DEVICES) or (mentioned and policy.blank == "absent"):
            labels[name] = "absent"
    if nothing:
        return labels, True, contradicts
    found = any(labels.get(name) == "present" for name in LABELS if name != DEVICES)
    return labels, False if found or verdict == "absent" else None, contradicts


def _said(name: str, value: object) -> LabelState | None:
    text = "" if value is None or value != value else str(value).strip()  # noqa: PLR0124 - NaN
    if not text:
        return None
    try:
        return SAID[f"{float(text):g}".replace("-0", "0")]
    except (ValueError, KeyError):
        raise LabelError(f"{name} is {text!r}") from None


def film_labels(
    row: Mapping[str, object], policy: LabelPolicy, case: str, findings: Issues, where: str = ""
) -> tuple[dict[str, LabelState], bool | None] | None:
    """Return a film's labels and whether it has no findings; None if its row is an error.

    Error: label-unknown, which names `where` (table and line). Warning: labels-contradict.
    """
    try:
        labels, no_finding, contradicts = read_labels(row, policy)
    except LabelError as error:
        found = f"{error} {where}".strip()
        findings.report("label-unknown", case, found, "1, 0, -1 or nothing", "correct it")
        return None
    if contradicts:
        findings.warn(
            "labels-contradict",
            case,
            f"`{NO_FINDING}` is 1 beside a finding",
            "one or the other",
            f"nothing (`{NO_FINDING}` does not count)",
        )
    return labels, no_finding
