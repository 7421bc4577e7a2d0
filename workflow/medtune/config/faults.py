"""All faults of a configuration at once, each with its key and its remedy."""

import copy
import difflib
from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from operator import getitem
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from medtune.config.base import LATER, Fault, Section, sections_of
from medtune.config.renamed import RENAMED
from medtune.runtime.errors import ConfigError

S = TypeVar("S", bound=Section)
Location = tuple[int | str, ...]
# Repairs uncover faults: of a key that was a slip, of a section that was missing.
ROUNDS = 5
UNKNOWN = "extra_forbidden"
ALIKE, SLIP = 0.6, 0.8  # of two keys, by `difflib`: worth a question, and hardly anything else


def checked(model: type[S], values: dict[str, Any], where: str) -> S:
    """Validate values as a section, with all below it.

    Wrong values are put out of the way, so that one fault does not hide the others.

    Raises:
        ConfigError: It holds all faults, one below the other.
    """
    faults: list[Fault] = []
    for _ in range(ROUNDS):
        try:
            section = model.model_validate(values, context=LATER)
        except ValidationError as error:
            errors = error.errors()
            # A slip is righted first: the key it stands for is then not missing.
            errors = [one for one in errors if one["type"] == UNKNOWN] or errors
            faults += _news((_fault(one, model) for one in errors), faults)
            values = _repaired(values, errors, model)
        else:
            faults += _news(_between_keys(section), faults)
            if not faults:
                return section
            break
    raise _as_error(faults, where)


def _as_error(faults: Sequence[Fault], where: str) -> ConfigError:
    """Return faults as an error: a line for each, and a line for its remedy."""
    *others, last = faults
    before = "".join(
        f"`{fault.keys[0]}`: {fault.found}\n  -> {fault.remedy}\n{where}: " for fault in others
    )
    return ConfigError(where, f"{before}`{last.keys[0]}`: {last.found}", last.remedy)


def _news(found: Iterable[Fault], known: Sequence[Fault]) -> list[Fault]:
    """Return the faults that do not concern keys which are wrong anyway."""
    wrong = [key for fault in known for key in fault.keys]

    def concerns(fault: Fault) -> bool:
        return any(
            f"{a}.".startswith(f"{b}.") or f"{b}.".startswith(f"{a}.")
            for a in fault.keys
            for b in wrong
        )

    return list(dict.fromkeys(fault for fault in found if not concerns(fault)))


def _between_keys(section: Section, prefix: str = "") -> Iterator[Fault]:
    """Yield the faults between keys of a section and of those below it, with full keys."""
    for fault in section.faults():
        yield fault._replace(keys=tuple(prefix + key for key in fault.keys))
    for key in type(section).model_fields:
        value = getattr(section, key)
        if isinstance(value, Section):
            yield from _between_keys(value, f"{prefix}{key}.")
        for number, item in enumerate(value if isinstance(value, list) else ()):
            if isinstance(item, Section):
                yield from _between_keys(item, f"{prefix}{key}.{number}.")


def _at(model: type[BaseModel], location: Location) -> tuple[type[BaseModel], FieldInfo | None]:
    """Return the section that holds a key, and the last field on the way to it."""
    holder, field = model, None
    for part in location:
        if isinstance(part, str) and part in model.model_fields:
            holder, field = model, model.model_fields[part]
            model = sections_of(model).get(part, model)
        elif isinstance(part, str):
            holder = model
    return holder, field


def _new_name(model: type[BaseModel], location: Location) -> str | None:
    """Return what a key of an earlier release is called here today."""
    new = RENAMED.get(str(location[-1]), "")
    return new if new in _at(model, location)[0].model_fields else None


def _nearest(model: type[BaseModel], location: Location, alike: float) -> str | None:
    """Return the valid key that an unknown one may be a slip of."""
    valid = list(_at(model, location)[0].model_fields)
    return next(iter(difflib.get_close_matches(str(location[-1]), valid, 1, alike)), None)


def _fault(error: ErrorDetails, model: type[BaseModel]) -> Fault:
    """Return an error of pydantic as a fault."""
    location = error["loc"]
    keys = (".".join(map(str, location)),)
    holder, field = _at(model, location)
    meaning = f": {field.description}" if field and field.description else ""
    if error["type"] == UNKNOWN:
        new, valid = _new_name(model, location), ", ".join(holder.model_fields)
        if new:
            return Fault(keys, f"is called `{new}` now", "rename it")
        near = _nearest(model, location, ALIKE)
        remedy = f"did you mean `{near}`?" if near else "take it away."
        return Fault(keys, "unknown key", f"{remedy} Valid here: {valid}")
    if error["type"] == "missing":
        return Fault(keys, "is missing", f"add it{meaning}")
    cause = error.get("ctx", {}).get("error")
    remedy = getattr(cause, "remedy", f"correct it{meaning}")
    found = getattr(cause, "found", str(cause) if cause else error["msg"].removeprefix("Input "))
    given = error["input"]
    shown = "" if isinstance(given, dict | BaseModel) else f", found {given!r}"
    return Fault(keys, found + shown, remedy)


def _repaired(
    values: dict[str, Any], errors: Iterable[ErrorDetails], model: type[BaseModel]
) -> dict[str, Any]:
    """Return values with a default, or an example, for each wrong one.

    A slip of a key gets its name, unless that is there too.
    """
    values = copy.deepcopy(values)
    for error in errors:
        location = error["loc"]
        while location and isinstance(location[-1], int):  # of a list: all of it
            location = location[:-1]
        if not location:
            continue
        *path, key = location
        try:
            holder: Any = reduce(getitem, path, values)  # type: ignore[arg-type]
            value = holder.pop(key, None)
        except (KeyError, IndexError, TypeError, AttributeError):
            continue  # taken away with what holds it
        field = _at(model, location)[1]
        if error["type"] == UNKNOWN:
            new = _new_name(model, location) or _nearest(model, location, SLIP)
            if new and new not in holder:
                holder[new] = value
        elif field and field.is_required():
            holder[key] = _example(field)
    return values


def _example(field: FieldInfo) -> Any:
    """Return a value for a key that must be there."""
    if get_origin(field.annotation) is Literal:
        return get_args(field.annotation)[0]
    return "x" if field.annotation is str else {}
