import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from avpipe.cli import app, docs
from avpipe.clips import Status
from avpipe.plan.study import Study, validate_study
from avpipe.tables.rows import PretrainingRow, Row
from avpipe.tables.spec import TableSpec

PAGES = [docs.ROOT / "README.md", *sorted((docs.ROOT / "docs").glob("*.md"))]
EVERYWHERE = [*PAGES, *sorted((docs.ROOT / "docs/decisions").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in this language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)


def anchors(page: Path) -> set[str]:
    """What a link to one of the page's headings may have after `#`."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", docs.PAGES)
def test_generated_pages_say_what_the_code_says(path: str) -> None:
    written = (docs.ROOT / path).read_text(encoding="utf-8")
    assert written == docs.PAGES[path](), f"{path} is out of date: run `make docs`"


@pytest.mark.parametrize("page", EVERYWHERE, ids=lambda page: page.stem)
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    for path, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", page.read_text(encoding="utf-8")):
        if "://" not in path:
            target = page.parent / path if path else page
            assert target.exists(), path
            assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_of_the_repository_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"\b(?:avpipe|workflow|envs|tests)/[\w/-]+\.\w+", text)
    missing = {name for name in named if not (docs.ROOT / name).exists()}
    assert {name for name in missing if not Path(name).stem.startswith(("my", "mine"))} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_of_avpipe_are_accepted(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for line in re.findall(r"(?:^    |`)(?:\.venv/bin/)?avpipe ([^`\n]*)", text, re.M):
        command: Any = typer.main.get_command(app)
        words = shlex.split(line, comments=True)
        while words and hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        if words:
            command.make_context("avpipe", words)  # raises for an option that is unknown or left out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_parts_of_studies_are_valid(page: Path) -> None:
    for block in blocks(page, "yaml"):
        study = yaml.safe_load(block)
        if isinstance(study, dict) and study.keys() <= Study.model_fields.keys():
            dataset = {"name": "d", "kind": "ave", **study.get("dataset", {})}
            validate_study({**study, "dataset": dataset})


def test_every_key_of_a_study_has_a_type_and_a_meaning() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*) \| (.*) \| (.*) \|$", docs.config_page(), re.M)
    definitions = [Study.model_json_schema(), *Study.model_json_schema()["$defs"].values()]
    keys = {
        key for schema in definitions for key, field in schema["properties"].items() if "const" not in field
    }
    assert {key for key, *_ in rows} == keys
    assert all(cell.strip() for row in rows for cell in row)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "number", "minimum": 0, "maximum": 1}, "number from 0 to 1"),
        ({"type": "number", "exclusiveMinimum": 0}, "number above 0"),
        ({"anyOf": [{"enum": ["a", "b"]}, {"type": "null"}]}, "`a`, `b` or null"),
        ({"type": "array", "items": {"type": "integer", "minimum": 1}}, "list of integers, 1 or more"),
        ({"type": "array", "prefixItems": [{"type": "number"}] * 2}, "list of 2 numbers"),
        (
            {"type": "object", "additionalProperties": {"$ref": "#/$defs/Extractor"}},
            "mapping of names to [extractors.NAME](#extractorsname)",
        ),
        (
            {
                "type": "object",
                "propertyNames": {"enum": ["a", "b"]},
                "additionalProperties": {"type": "string"},
            },
            "mapping of `a` or `b` to texts",
        ),
    ],
)
def test_types_are_words(schema: dict[str, Any], words: str) -> None:
    assert docs.type_words(schema, {"Extractor": "extractors.NAME"}) == words


def test_every_outcome_of_a_clip_is_listed() -> None:
    page = (docs.ROOT / "docs/output.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `(\w+)` \| (yes|no) \|", page, re.M))
    assert listed == {status.value: "yes" if status.final else "no" for status in Status}


def test_every_key_of_a_tables_file_is_described() -> None:
    page = (docs.ROOT / "docs/extending.md").read_text(encoding="utf-8")
    section = re.split(r"\n##+ ", page.split("\n## A table\n")[1])[0]
    of_table, of_row = (
        {key for cell in re.findall(r"^\| (`.*?) \|", part, re.M) for key in re.findall(r"`(\w+)`", cell)}
        for part in section.split("| key of a row |")
    )
    assert of_table == set(TableSpec.model_fields)
    assert of_row == set(Row.model_fields)
    (pretraining,) = re.findall(r"^\| `pretraining` \| (.*)", section, re.M)
    assert set(PretrainingRow.model_fields) <= set(re.findall(r"`(\w+)`", pretraining))
