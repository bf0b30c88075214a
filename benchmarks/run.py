"""Runs every benchmark, one after the other, and prints the table of benchmarks/README.md.

Each benchmark is a script that prints table rows (lines that begin with `|`): measure, found, aim. A ratio is
measured within one run, its two sides in turn, because these machines are noisy.
"""

import datetime
import os
import platform
import subprocess
import sys
from pathlib import Path

BENCHMARKS = ("planning", "normalise", "logmel", "extraction", "parsing_metrics", "loading", "training")


def machine() -> str:
    """The processor, its cores and the versions that matter."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        model = next(
            (
                line.split(":")[1].strip()
                for line in cpuinfo.read_text().splitlines()
                if line.startswith("model name")
            ),
            model,
        )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = subprocess.run(
        [
            sys.executable,
            "-c",
            "import torch; print(torch.__version__, torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU')",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    return f"{model}, {cores} cores, Python {platform.python_version()}, torch {versions}"


def main() -> None:
    print(f"Taken on {datetime.date.today()} on: {machine()}.\n")
    print("| measure | found | aim |\n| --- | --- | --- |", flush=True)
    folder = Path(__file__).parent
    chosen = sys.argv[1:] or BENCHMARKS
    for name in chosen:
        done = subprocess.run([sys.executable, str(folder / f"{name}.py")], capture_output=True, text=True)
        if done.returncode:
            print(f"| {name} | failed: {done.stderr.strip().splitlines()[-1]} | |")
        print(
            "".join(line + "\n" for line in done.stdout.splitlines() if line.startswith("|")),
            end="",
            flush=True,
        )


if __name__ == "__main__":
    main()
