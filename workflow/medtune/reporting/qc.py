"""The pages of quality control: one per source, with its figures, findings and contact sheets."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel

from medtune.config.stages import FindingsStage
from medtune.media.convert import Converted
from medtune.records.case import Case
from medtune.records.issue import CheckedCase, Issue
from medtune.reporting.html import render
from medtune.reporting.plots import histogram
from medtune.reporting.sheets import BOX_COLOR, MASK_COLOR, Sheet
from medtune.runtime.files import write_text
from medtune.runtime.tables import read_records
from medtune.sources.index import read_left_out, shard_paths
from medtune.sources.verify import all_findings

R = TypeVar("R", bound=BaseModel)
AXES = ("x, to the left", "y, to the back", "z, between slices")
KINDS = {
    "target": "with a target",
    "no-target": "without a target",
    "no-mask": "without a mask",
    "not-converted": "not converted",
}


class Row(BaseModel):
    """One case as its page lists it; the figures of a case without a target are None."""

    case: str
    patient: str
    kind: str
    side: str | None = None
    volume_ml: float | None = None
    peak: int | None = None
    ratio: float | None = None
    shown: str | None = None
    parts: str | None = None
    spacing_mm: list[float] = []
    orientation: str = ""
    findings: list[str] = []
    sheet: Sheet | None = None


@dataclass(frozen=True)
class Station:
    """Everything that is known of all sources, by the id of the case."""

    cases: Sequence[Case]
    checked: Mapping[str, CheckedCase]
    findings: Sequence[Issue]
    converted: Mapping[str, Converted]
    sheets: Mapping[str, Sheet]


def _row(case: Case, station: Station, codes: Sequence[str]) -> Row:
    """Return what the page says of one case."""
    checked, converted = station.checked.get(case.id), station.converted.get(case.id)
    row = Row(
        case=case.case_id,
        patient=case.patient_id,
        kind="not-converted",
        orientation=checked.orientation if checked else "",
        spacing_mm=checked.spacing if checked else [],
        findings=sorted(set(codes)),
        sheet=station.sheets.get(case.id),
    )
    if converted is None:
        return row
    truth, meta = converted.truth, converted.meta
    known: dict[str, Any] = {"kind": "no-mask", "spacing_mm": meta["spacing_mm"]}
    if truth is not None:
        parts, kept = meta["components"], meta["components_kept"]
        known |= {"kind": "no-target", "volume_ml": meta["volume_ml"], "ratio": truth.tumor_ratio}
        known["parts"] = str(kept) if kept == parts else f"{kept} of {parts}"
    if truth is not None and truth.bbox_3d is not None:
        known |= {"kind": "target", "side": meta["side"], "peak": truth.peak_slice}
        known["shown"] = f"{truth.bbox_3d[2]:.0f} to {truth.bbox_3d[5] - 1:.0f}"
    return row.model_copy(update=known)


def _charts(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the distributions that have something to show, by the id of their place."""
    spacings = [row.spacing_mm for row in rows if row.spacing_mm]
    targets = [row for row in rows if row.kind == "target"]
    charts = {}
    if spacings:
        # Headers hold float32: digits beyond the third are noise.
        axes = np.array(spacings).round(3).T.tolist()
        charts["spacing"] = histogram(
            dict(zip(AXES, axes, strict=True)), "voxel spacing (mm)", least=0.05
        )
    if targets:
        values = [row.volume_ml for row in targets if row.volume_ml]
        charts["volume"] = histogram({"": values}, "volume of the target (mL)", 0.1, log=True)
        peaks = [float(row.peak) for row in targets if row.peak is not None]
        charts["peak"] = histogram({"": peaks}, "peak slice (frame)", 1)
        ratios = [row.ratio for row in targets if row.ratio is not None]
        charts["ratio"] = histogram({"": ratios}, "target voxels / brain voxels", 0.001)
    return charts


def _middle(values: Sequence[float]) -> tuple[str, str]:
    """Return the median and the quartiles as texts."""
    if not values:
        return "-", "no case has one"
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return f"{middle:.3g}", f"half of the cases lie in {low:.3g} to {high:.3g}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _figures(rows: Sequence[Row], findings: Sequence[Issue]) -> list[dict[str, str]]:
    """Return the headline figures of a source."""
    kinds = Counter(row.kind for row in rows)
    targets = [row for row in rows if row.kind == "target"]
    volume = _middle([row.volume_ml for row in targets if row.volume_ml is not None])
    ratio = _middle([row.ratio for row in targets if row.ratio is not None])
    severities = Counter(finding.severity for finding in findings)

    def figure(title: str, value: str, detail: str, verdict: str = "") -> dict[str, str]:
        return {"title": title, "value": value, "detail": detail, "verdict": verdict}

    left_out = f"{_count(kinds['not-converted'], 'case')} left out"
    patients = _count(len({row.patient for row in rows}), "patient")
    held = ", ".join(f"{kinds[kind]} {text}" for kind, text in KINDS.items() if kinds[kind])
    figures = [
        figure("cases", str(len(rows)), f"of {patients}: {held}"),
        figure(
            "findings",
            _count(severities["error"], "error"),
            f"{_count(severities['warning'], 'warning')}"
            + (f"; {left_out}" if kinds["not-converted"] < len(rows) else ""),
            "bad" if severities["error"] else "good",
        ),
    ]
    if kinds["not-converted"] < len(rows):
        figures += [
            figure("median volume", f"{volume[0]} mL", volume[1]),
            figure("median ratio", *ratio),
        ]
    return figures


def _kinds_of_findings(findings: Sequence[Issue]) -> list[dict[str, Any]]:
    """Return one row per kind of finding, errors first and the most frequent first."""
    counts = Counter((finding.severity, finding.code) for finding in findings)
    return [
        {"severity": severity, "code": code, "count": count}
        for (severity, code), count in sorted(counts.items(), key=lambda n: (n[0][0], -n[1], n[0]))
    ]


def page(source: str, sources: Sequence[str], station: Station) -> str:
    """Return the page of a source as HTML; sheets are linked, everything else is inside.

    Args:
        source: Its name.
        sources: The names of all sources, for links between their pages.
        station: What is known.
    """
    cases = [case for case in station.cases if case.source == source]
    names = {case.id for case in cases}
    findings = [f for f in station.findings if f.case.partition("/")[0] == source]
    findings.sort(key=lambda finding: finding.severity)  # errors first
    codes: dict[str, list[str]] = {name: [] for name in names}
    for finding in findings:
        if finding.case in codes:  # else it is about the source, or a folder that is no case
            codes[finding.case].append(finding.code)
    rows = [_row(case, station, codes[case.id]) for case in cases]
    return render(
        "qc.html.jinja",
        _charts(rows),
        title=f"Quality control: {source}",
        source=source,
        sources=sources,
        figures=_figures(rows, findings),
        findings=findings,
        listed=names,
        kinds_of_findings=_kinds_of_findings(findings),
        kinds=KINDS,
        rows=rows,
        has_pictures=bool(station.converted),
        box_color=BOX_COLOR,
        mask_color=MASK_COLOR,
    )


def write_pages(
    stage: FindingsStage,
    index: Path,
    shard_size: int,
    verified: Path,
    shards: Path,
    output: Path,
) -> None:
    """Write `<output>/<source>.html` for every source.

    The findings are derived from the verified shards, so that excluded cases are among them.

    Args:
        stage: The configuration that decided the findings.
        index: The index of all cases.
        shard_size: Cases per shard.
        verified: Folder of the tables written by `verify-shard`.
        shards: Folder of the tables written by `convert`.
        output: Folder of the tables written by `qc`, and of the pages.
    """
    checked = _gather(index, shard_size, verified, CheckedCase)
    station = Station(
        cases=read_records(index, Case),
        checked={one.case.id: one for one in checked},
        findings=all_findings(checked, stage.splits.fixed, stage.task.region, read_left_out(index)),
        converted={one.case.id: one for one in _gather(index, shard_size, shards, Converted)},
        sheets={sheet.case: sheet for sheet in _gather(index, shard_size, output, Sheet)},
    )
    sources = sorted({case.source for case in station.cases})
    for source in sources:
        write_text(output / f"{source}.html", page(source, sources, station))


def write_finding_pages(
    checked: Sequence[CheckedCase], findings: Sequence[Issue], folder: Path
) -> list[Path]:
    """Write `<folder>/<source>.html` for every source, before anything is converted.

    Args:
        checked: All cases.
        findings: All findings.
        folder: Gets the pages.

    Returns:
        The pages.
    """
    station = Station(
        cases=[one.case for one in checked],
        checked={one.case.id: one for one in checked},
        findings=findings,
        converted={},
        sheets={},
    )
    sources = sorted({case.source for case in station.cases})
    for source in sources:
        write_text(folder / f"{source}.html", page(source, sources, station))
    return [folder / f"{source}.html" for source in sources]


def _gather(index: Path, shard_size: int, folder: Path, model: type[R]) -> list[R]:
    """Return the records of all shards of an index in a folder."""
    paths = shard_paths(index, shard_size, folder)
    return [record for path in paths for record in read_records(path, model)]
