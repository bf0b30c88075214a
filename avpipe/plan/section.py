"""The base class of every part of the configuration, and the messages for wrong keys and values."""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from avpipe.plan.registry import suggest


class ConfigError(ValueError):
    """The configuration is wrong; the message names each key, what was found and what was expected."""


class Section(BaseModel):
    """A part of the configuration. An unknown key is an error, so that a typo is never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
"""Pattern of names that become parts of paths: datasets, extractors, tables."""


def describe(error: ValidationError, root: type[BaseModel]) -> str:
    """One line per mistake: the full name of the key, what is wrong, and the nearest known key."""
    lines = []
    for mistake in error.errors():
        path = [str(part) for part in mistake["loc"]]
        message = mistake["msg"].removeprefix("Value error, ")
        if mistake["type"] == "extra_forbidden":
            section = _section(root, path[:-1])
            known = list(section.model_fields) if section else []
            message = f"no such key; {suggest(path[-1], known)}"
        elif mistake["type"] == "missing":
            message = "is missing"
        else:
            found = mistake.get("input")
            if not isinstance(found, dict):
                message += f" (found {found!r})"
        lines.append(f"  {'.'.join(path)}: {message}" if path else f"  {message}")
    return "\n".join(lines)


def _section(root: type[BaseModel], path: list[str]) -> type[BaseModel] | None:
    """The Section that a key path leads to, through lists and dictionaries."""
    section: type[BaseModel] | None = root
    for part in path:
        if section is None:
            return None
        field = section.model_fields.get(part)
        if field is None:  # an index of a list or a key of a dictionary: stay
            continue
        section = next(
            (
                kind
                for kind in _types(field.annotation)
                if isinstance(kind, type) and issubclass(kind, BaseModel)
            ),
            None,
        )
    return section


def _types(annotation: Any) -> list[Any]:
    """The types that an annotation is made of."""
    arguments = getattr(annotation, "__args__", ())
    return [annotation, *(kind for argument in arguments for kind in _types(argument))]
