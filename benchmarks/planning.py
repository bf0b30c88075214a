"""Measures `snakemake -n` of workflow/configs/audioset.yaml for a manifest of 2,000,000 clips, and `import avpipe`.

Prints one row per measure: processor seconds and peak memory of the planning process; milliseconds of the import beside
those of an empty Python.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
CLIPS = 2_000_000

STUDY = yaml.safe_load((ROOT / "workflow" / "configs" / "audioset.yaml").read_text())
SHARD_SIZE = STUDY["shard_size"]


def lay_out(folder: Path) -> None:
    """A study whose manifest is there and nothing else."""
    for name in ("avpipe", "workflow", "envs", "Snakefile", "config.yaml"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "study.json").write_text(json.dumps(STUDY))
    annotations = folder / STUDY["dataset"]["annotations"]
    annotations.mkdir(parents=True)
    for name in ("class_labels_indices", "balanced_train_segments", "eval_segments"):
        (annotations / f"{name}.csv").write_text("")
    results = folder / "results" / STUDY["dataset"]["name"]
    results.mkdir(parents=True)
    for name in ("manifest.parquet", "events.parquet", "categories.csv", "issues.csv"):
        (results / name).write_text("")
    shards = {str(shard): f"{shard:016x}" for shard in range(-(-CLIPS // SHARD_SIZE))}
    index = {
        "dataset": STUDY["dataset"]["name"],
        "clips": CLIPS,
        "rows": CLIPS,
        "shard_size": SHARD_SIZE,
        "shards": shards,
        "labels": "0",
    }
    (results / "manifest.json").write_text(json.dumps(index))


def plan(folder: Path) -> dict[str, float]:
    """Processor seconds, peak memory in GB and jobs of one dry run."""
    snakemake = Path(sys.executable).parent / "snakemake"
    arguments = [str(snakemake), "-n", "--quiet", "rules", "--configfile", "study.json"]
    process = subprocess.Popen(
        arguments, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"snakemake -n failed:\n{text[-3000:]}")
    jobs = next(int(line.split()[-1]) for line in text.splitlines() if line.startswith("total"))
    return {
        "seconds": usage.ru_utime + usage.ru_stime,
        "gigabytes": usage.ru_maxrss / 1e6,
        "jobs": jobs,
    }


def import_cost(statement: str, repeats: int = 9) -> float:
    """Median milliseconds of a Python process that runs `statement`."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", statement], check=True)
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times)


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="avpipe-planning-"))
    try:
        lay_out(folder)
        found = plan(folder)
    finally:
        shutil.rmtree(folder)
    print(
        f"| `snakemake -n`, {CLIPS:,} clips ({found['jobs']:,.0f} jobs) | {found['seconds']:.1f} s, "
        f"{found['gigabytes']:.2f} GB | <= 30 s, <= 1 GB |"
    )
    empty, avpipe = import_cost("pass"), import_cost("import avpipe")
    print(
        f"| `import avpipe` beyond an empty Python | {avpipe - empty:.0f} ms ({avpipe:.0f} - {empty:.0f}) | <= 150 ms |"
    )


if __name__ == "__main__":
    main()
