"""The base class of every part of the configuration, and the messages for wrong keys and values."""

import difflib
import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from avpipe.plan.registry import suggest


class ConfigError(ValueError):
    """The configuration is wrong; the message names each key, what was found and what was expected."""


class Section(BaseModel):
    """A part of the configuration. An unknown key is an error, so that a typo is never ignored; so are `.inf` and `.nan`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
"""Pattern of names that become parts of paths: datasets, extractors, tables."""

Count = Annotated[int, Field(ge=1, le=10**9)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
Seconds = Annotated[float, Field(gt=0, le=10**6)]
"""A time limit; the operating system takes no much longer one."""


def describe(error: ValidationError, root: type[BaseModel]) -> str:
    """One line per mistake: the full name of the key, what is wrong, and the nearest known key."""
    lines = []
    for mistake in error.errors():
        path, section = _follow(root, [str(part) for part in mistake["loc"]])
        message = mistake["msg"].removeprefix("Value error, ")
        if mistake["type"] == "extra_forbidden":
            message = f"no such key; {suggest(path[-1], list(section.model_fields) if section else [])}"
        elif mistake["type"] == "missing":
            message = "is missing"
        elif not isinstance(found := mistake.get("input"), dict):
            message += f" (found {found!r})"
            if mistake["type"] == "literal_error":
                known = re.findall(r"'([^']*)'", mistake["ctx"]["expected"])
                near = difflib.get_close_matches(str(found), known, n=1)
                message += f"; did you mean {near[0]!r}?" if near else ""
        lines.append(f"  {'.'.join(path)}: {message}" if path else f"  {message}")
    return "\n".join(lines)


def _follow(root: type[BaseModel], path: list[str]) -> tuple[list[str], type[BaseModel] | None]:
    """The path as a person wrote it, and the Section that holds its last key.

    Where a value may be of several Sections, pydantic puts the value of `kind`, or the class's name, into the path; it is
    left out.
    """
    written: list[str] = []
    here: list[type[BaseModel]] = [root]
    for part in path[:-1]:
        chosen = [
            section
            for section in here
            if section.__name__ == part
            or (section.model_fields.get("kind") and section.model_fields["kind"].default == part)
        ]
        if chosen:
            here = chosen
            continue
        written.append(part)
        fields = [section.model_fields[part] for section in here if part in section.model_fields]
        if fields:  # else an index of a list or a key of a dictionary: stay
            here = [
                kind
                for kind in _types(fields[0].annotation)
                if isinstance(kind, type) and issubclass(kind, BaseModel)
            ]
    return [*written, *path[-1:]], here[0] if len(here) == 1 else None


def _types(annotation: Any) -> list[Any]:
    """The types that an annotation is made of."""
    arguments = getattr(annotation, "__args__", ())
    return [annotation, *(kind for argument in arguments for kind in _types(argument))]
