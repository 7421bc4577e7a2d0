"""pass@k as a table."""

from collections.abc import Mapping
from typing import Any

from medtune.reporting.numbers import show
from medtune.reporting.overview import Table


def pass_table(metrics: Mapping[str, Any]) -> Table | None:
    """Return a row by model and k, or None where no answers were sampled."""
    found = metrics.get("pass_at", {}).get("models")
    if not found:
        return None
    rows = [
        [model, k, show(one), *(str(one[count]) for count in ("n", "patients"))]
        for model, rates in found.items()
        for k, one in rates.items()
    ]
    columns = ["model", "k", "pass@k [interval] ↑", "cases", "patients"]
    return Table(columns=columns, rows=rows, filters={"model": ""})
