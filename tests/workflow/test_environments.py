"""The conda environments hold what their jobs import, in the versions of requirements.lock."""

import ast
import importlib.metadata
import re
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

from avpipe.datasets import DATASETS, RENDERERS
from avpipe.download import FETCHERS
from avpipe.features.spec import NETWORKS
from avpipe.models import MODELS
from avpipe.plan import fingerprint
from avpipe.plan.plan import JOBS
from avpipe.training import TASKS

ROOT = Path(__file__).resolve().parent.parent.parent
BY_NAME = {
    "demo": RENDERERS,
    "manifest": DATASETS,
    "fetch": FETCHERS,
    "extract": NETWORKS,
    "train": {**TASKS, **MODELS},
    "embed": {**TASKS, **MODELS},
}
"""What a rule's job loads by name, beyond the modules that it names."""


def modules_of(rule: str) -> set[str]:
    by_name = {target.split(":")[0] for target in BY_NAME.get(rule, {}).values()}
    return fingerprint.import_closure(*JOBS[rule].modules, *by_name) | {"avpipe.plan.study"}


def third_party_imports(module: str) -> set[str]:
    """Top-level names of other packages that `module` imports when it runs, wherever in its source."""
    names: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            return
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names.add(node.module.split(".")[0])
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(fingerprint._tree(module))
    return names - {"avpipe"} - set(sys.stdlib_module_names)


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@cache
def requirements(distribution: str) -> frozenset[str]:
    """The distribution and everything that it requires, as installed here."""
    found: set[str] = set()
    waiting = [normal(distribution)]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        try:
            required = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        waiting.extend(
            normal(re.split(r"[\s;<>=!~\[(]", line)[0]) for line in required if "extra ==" not in line
        )
    return frozenset(found)


def pins(environment: str) -> dict[str, str]:
    content = yaml.safe_load((ROOT / "envs" / f"{environment}.yaml").read_text())
    (pip,) = [entry["pip"] for entry in content["dependencies"] if isinstance(entry, dict)]
    return dict(line.partition(";")[0].strip().split("==") for line in pip)


def lock() -> dict[str, set[str]]:
    versions: dict[str, set[str]] = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        found = re.match(r"([A-Za-z0-9_.-]+)==([^\s;]+)", line)
        if found:
            versions.setdefault(normal(found[1]), set()).add(found[2])
    return versions


@pytest.mark.parametrize("rule", JOBS)
def test_an_environment_holds_what_its_jobs_import(rule):
    available: set[str] = set()
    for distribution in pins(JOBS[rule].environment):
        available |= requirements(distribution)
    distributions = importlib.metadata.packages_distributions()
    for module in sorted(modules_of(rule) | {"avpipe.cli"}):
        imports = {"typer", "yaml"} if module == "avpipe.cli" else third_party_imports(module)
        for name in imports:
            providers = {normal(d) for d in distributions.get(name, [])}
            assert providers & available, (
                f"envs/{JOBS[rule].environment}.yaml lacks {name}, which {module} imports"
            )


@pytest.mark.parametrize("path", sorted((ROOT / "envs").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_pins_are_those_of_the_lock(path):
    locked = lock()
    for name, version in pins(path.stem).items():
        assert version in locked.get(normal(name), set()), (
            f"{path.name}: {name}=={version} is not what requirements.lock pins"
        )


def test_every_rule_has_its_environment_and_every_environment_a_rule():
    assert {job.environment for job in JOBS.values()} == {
        path.stem for path in (ROOT / "envs").glob("*.yaml")
    }
    text = "".join(path.read_text() for path in (ROOT / "workflow" / "rules").glob("*.smk"))
    for name, job in JOBS.items():
        rule = "extract" if name == "encode" else name  # features by a run's network have the same rule
        forms = (f"rule {rule}:", f"checkpoint {rule}:", f'f"{rule}_', f'of_seeds("{rule}"')
        start = min(text.index(form) for form in forms if form in text)
        named = re.search(r'conda:\s+"../../envs/(\w+)\.yaml"', text[start:])
        assert named, rule
        assert named[1] == job.environment, rule


def test_no_file_names_a_package_index():
    files = (ROOT / name for name in ("requirements.lock", "pyproject.toml", "Makefile"))
    for path in (*files, *(ROOT / "envs").glob("*.yaml")):
        assert not re.search(r"https?://|--(extra-)?index-url|--find-links", path.read_text()), path.name
