"""HTML pages that open offline: one file with its style, its charts and what draws them.

Also Markdown, from templates of the same folder.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import vl_convert
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

TEMPLATES = Path(__file__).resolve().parents[2] / "report"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        autoescape=select_autoescape(["html.jinja"]),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["url_path"] = quote
    return environment


@cache
def _vega() -> str:
    """Return Vega, Vega-Lite and vega-embed as one script."""
    script: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return script


def render(template: str, charts: Mapping[str, Any], **values: Any) -> str:
    """Return a page made from a template that extends `base.html.jinja`.

    Args:
        template: File in `workflow/report`.
        charts: Id of an element of class `chart` -> Vega-Lite specification; what draws them is
            in the page only if there are some.
        **values: What the template shows.
    """
    return (
        _environment()
        .get_template(template)
        .render(charts=json.dumps(charts, sort_keys=True), vega=_vega() if charts else "", **values)
    )


def render_markdown(template: str, **values: Any) -> str:
    """Return a Markdown text made from a template.

    Args:
        template: File in `workflow/report`.
        **values: What the template shows.
    """
    return _environment().get_template(template).render(**values)
