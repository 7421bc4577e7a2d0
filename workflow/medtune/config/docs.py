"""Documentation written from the typed configuration: defaults, schema, reference page."""

import json
import textwrap
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from medtune.config.base import sections_of
from medtune.config.experiment import Config
from medtune.runtime.files import write_text

WIDTH = 96


def _comment(text: str, indent: int) -> list[str]:
    prefix = " " * indent + "# "
    return textwrap.wrap(text, WIDTH, initial_indent=prefix, subsequent_indent=prefix)


def _scalar(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _render(section: BaseModel, indent: int, comments: bool = True) -> list[str]:
    lines: list[str] = []
    pad = " " * indent
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        if indent == 0:
            lines.append("")
        if comments:
            lines += _comment(field.description or "", indent)
        if isinstance(value, BaseModel):
            lines += [f"{pad}{key}:", *_render(value, indent + 2, comments)]
        elif isinstance(value, list) and value and isinstance(value[0], BaseModel):
            lines.append(f"{pad}{key}:")
            for number, item in enumerate(value):
                block = _render(item, indent + 4, comments and number == 0)
                lines += [f"{pad}  -", *block]
        else:
            dumped = section.model_dump(mode="json")[key]
            lines.append(f"{pad}{key}: {_scalar(dumped)}")
    return lines


def resolved(config: Config) -> str:
    """Return a configuration as YAML with every key and its documentation."""
    return "\n".join(_render(config, 0)).lstrip() + "\n"


def defaults() -> str:
    """Return every key of a configuration with its default and its documentation, as YAML."""
    heading = [
        "# Every key with its default; a configuration names what differs. Written by `medtune",
        "# config docs config` from the typed models; do not edit. Of a section that is null here,",
        "# config/README.md lists the keys.",
    ]
    return "\n".join([*heading, *_render_defaults(Config, 0)]) + "\n"


def _render_defaults(model: type[BaseModel], indent: int) -> list[str]:
    """Return the lines of a section that has required keys: these stand in comments."""
    lines: list[str] = []
    pad, inner = " " * indent, sections_of(model)
    for key, field in model.model_fields.items():
        if indent == 0:
            lines.append("")
        lines += _comment(field.description or "", indent)
        if isinstance(field.default, BaseModel):
            lines += [f"{pad}{key}:", *_render(field.default, indent + 2)]
        elif field.is_required() and key in inner:
            lines += [f"{pad}{key}:", *_render_defaults(inner[key], indent + 2)]
        elif field.is_required():
            lines.append(f"{pad}# {key}: (required)")
        else:
            lines.append(f"{pad}{key}: {_scalar(field.default)}")
    return lines


def schema() -> str:
    """Return the JSON schema of a configuration file."""
    document = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps(document | Config.model_json_schema(), indent=2) + "\n"


def _shape_name(shape: dict[str, Any]) -> str:
    """Return a JSON schema's type in words."""
    if "anyOf" in shape:
        return " or ".join(_shape_name(option) for option in shape["anyOf"])
    if "enum" in shape or "const" in shape:
        return ", ".join(f"`{name}`" for name in shape.get("enum", [shape.get("const")]))
    if "$ref" in shape:
        return "section"
    if shape.get("type") == "array":
        items = shape.get("prefixItems", [shape.get("items", {})])
        return f"list of {_shape_name(items[0])}" + (f", {len(items)}" if len(items) > 1 else "")
    return str(shape.get("type", "any"))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    return "see below" if isinstance(value, BaseModel) else f"`{json.dumps(value)}`"


def _tables(model: type[BaseModel], prefix: str) -> list[str]:
    lines = [f"## `{prefix or 'top level'}`", "", (model.__doc__ or "").strip(), ""]
    lines += ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    shapes = model.model_json_schema()["properties"]
    for key, field in model.model_fields.items():
        cells = (f"`{key}`", _shape_name(shapes[key]), _default(field), field.description or "")
        lines.append("| " + " | ".join(cells) + " |")
    lines.append("")
    for key, section in sections_of(model).items():
        lines += _tables(section, f"{prefix}.{key}" if prefix else key)
    return lines


def reference() -> str:
    """Return the reference page of all keys, as Markdown."""
    intro = [
        "# Configuration",
        "",
        "Written from `workflow/medtune/config/` by `medtune config docs config`; do not edit.",
        "`config.yaml` is the embedded demo, `brain_tumor_3d.yaml` and `chest_xray.yaml` are real",
        "experiments. A file names what differs from `defaults.yaml`; `medtune config show FILE`",
        "prints all keys.",
        "",
    ]
    return "\n".join([*intro, *_tables(Config, "")]).rstrip() + "\n"


def write_docs(folder: Path) -> None:
    """Write `defaults.yaml`, `schema.json` and `README.md` of a configuration folder."""
    write_text(folder / "defaults.yaml", defaults())
    write_text(folder / "schema.json", schema())
    write_text(folder / "README.md", reference())
