"""A stand-in for conda, because no conda channel can be reached: what Snakemake's `--use-conda` calls, and no more.

It makes an environment of a file's Python part: a venv that sees only the pinned packages and what they require, each a
link to the package installed here, whose version must be the pinned one. It takes no package from a channel.
"""

import json
import re
import subprocess
import sys
from importlib import metadata
from itertools import pairwise
from pathlib import Path

import yaml
from packaging.requirements import Requirement


def with_requirements(pins: list[str]) -> set[str]:
    """The distributions of these pins and all that they require here. Raises SystemExit for another version."""
    waiting, found = [Requirement(pin) for pin in pins], set[str]()
    while waiting:
        wanted = waiting.pop()
        name = re.sub(r"[-_.]+", "-", wanted.name).lower()
        if name in found or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
            continue
        here = metadata.version(name)
        if not wanted.specifier.contains(here, prereleases=True):
            raise SystemExit(f"{wanted} is asked for, {here} is installed")
        found.add(name)
        waiting += [Requirement(line) for line in metadata.requires(name) or []]
    return found


def create(file: Path, prefix: Path) -> None:
    """`conda env create --file FILE --prefix PREFIX`."""
    dependencies = yaml.safe_load(file.read_text())["dependencies"]
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"python={version}" in dependencies, f"{file} has another Python than {version}"
    pins = next(entry["pip"] for entry in dependencies if isinstance(entry, dict))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", prefix], check=True)
    (site,) = prefix.glob("lib/python*/site-packages")
    for name in sorted(with_requirements(pins)):
        distribution = metadata.distribution(name)
        for top in {path.parts[0] for path in distribution.files or []} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(distribution.locate_file(top))


def install(prefix: Path) -> Path:
    """Write `conda`, and `activate`, which notes each call in PREFIX/activated; the folder to put first in PATH."""
    programs = prefix / "bin"
    programs.mkdir(parents=True)
    (programs / "conda").write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" "{prefix}" "$@"\n')
    (programs / "conda").chmod(0o755)
    activate = f'export CONDA_PREFIX="$1" PATH="$1/bin:$PATH"\necho "$1" >> "{prefix}/activated"\n'
    (programs / "activate").write_text(activate)
    return programs


def main(prefix: str, *arguments: str) -> None:
    if arguments == ("--version",):
        print("conda 26.1.0")
    elif arguments[0] == "info":
        print(json.dumps({"conda_prefix": prefix, "platform": "linux-64"}))
    elif arguments[0] == "config":
        print(json.dumps({"get": {"channel_priority": "strict"}}))
    elif arguments[:2] == ("env", "create"):
        options = dict(pairwise(arguments))
        create(Path(options["--file"]), Path(options["--prefix"]))
    elif arguments[0] != "clean":
        raise SystemExit(f"the stand-in for conda does not know: {' '.join(arguments)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
