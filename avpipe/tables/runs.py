"""The runs of an experiment: their numbers, or why they have none."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from avpipe.datasets import RENDERERS
from avpipe.files import read_json
from avpipe.metrics.metric import Metric
from avpipe.plan.experiment import Experiment
from avpipe.plan.study import Study

COSTS = {"parameters": (1e-6, 2), "seconds": (1.0, 1)}
"""Costs that a table may show beside scores -> factor to the unit (millions of parameters, seconds of training), decimals."""

LONGEST_REASON = 240
"""Characters of a failure's reason in a note; `avpipe why` prints the whole reason."""


@dataclass(frozen=True)
class RunRecord:
    """One seed of an experiment.

    Args:
        name: its folder below the study's results, `runs/{experiment}/seed{n}`.
        seed: n.
        problem: why the run gives no number, or None.
        record: the content of metrics.json; empty without a readable file.
    """

    name: str
    seed: int
    problem: str | None = None
    record: dict[str, Any] = field(default_factory=dict)

    def metric(self, name: str) -> Metric:
        """Unit and direction of a metric, as metrics.json records them; a percentage where it does not."""
        return Metric(**(self.record.get("units") or {}).get(name, {"heading": name, "unit": "%"}))

    def value(self, protocol: str, metric: str) -> float | str:
        """The test metric, as printed, at the checkpoint that `protocol` chooses, or the reason why there is none.

        A cost is in the unit of `COSTS` and does not depend on the protocol.
        """
        if self.problem is not None:
            return self.problem
        if metric in COSTS:
            cost = self.record.get(metric)
            if not isinstance(cost, int | float):
                return f"metrics.json gives no {metric}"
            return COSTS[metric][0] * cost
        chosen = self.record["metrics"].get(protocol)
        if not isinstance(chosen, dict):
            return f"metrics.json has no protocol {protocol}"
        value = chosen.get(metric)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return f"metrics.json gives no {metric} (it has: {', '.join(sorted(chosen)) or 'nothing'})"
        return self.metric(metric).printed(float(value))

    def missing_clips(self) -> list[str]:
        """For each split with missing clips a phrase such as "test clips 59 of 62"."""
        counts = self.record.get("counts") or {}
        return [
            f"{split} clips {counts[split]} of {named}"
            for split in ("train", "val", "test")
            if (named := counts.get(f"{split}_named", 0)) > counts.get(split, named)
        ]


def read_run(results: Path, experiment: Experiment, seed: int) -> RunRecord:
    """Read `results`/runs/{experiment}/seed{n}/metrics.json. A missing or wrong file becomes the run's `problem`."""
    name = f"runs/{experiment.id}/seed{seed}"
    path = results / name / "metrics.json"
    try:
        record = read_json(path)
    except FileNotFoundError:
        return RunRecord(name, seed, "no run yet (metrics.json is missing)")
    except (OSError, ValueError) as error:
        return RunRecord(name, seed, f"metrics.json cannot be read: {error}")
    if not isinstance(record, dict) or record.get("status") not in ("ok", "failed"):
        return RunRecord(name, seed, "metrics.json says neither ok nor failed")
    if record["status"] == "failed":
        return RunRecord(name, seed, f"failed: {record.get('reason') or 'no reason given'}", record)
    if not isinstance(record.get("metrics"), dict):
        return RunRecord(name, seed, "metrics.json has no metrics", record)
    return RunRecord(name, seed, None, record)


def shortened(reason: str) -> str:
    """One line of at most `LONGEST_REASON` characters."""
    line = " ".join(reason.split())
    return line if len(line) <= LONGEST_REASON else f"{line[: LONGEST_REASON - 1]}…"


@dataclass(frozen=True)
class Notice:
    """Why the numbers of a table or figure are no reproduction.

    Args:
        tag: start of the title, for example "DEMO, RANDOM WEIGHTS".
        text: the reason in a sentence or two.
    """

    tag: str
    text: str


def notice(study: Study, experiments: Iterable[Experiment]) -> Notice | None:
    """The notice of a table or figure, needed on the demo, with random weights, or if the study has a `notice`; else None."""
    used = {name for asked in experiments for step in asked.chain for name in step.features.values()}
    random = sorted(
        name for name in used & study.with_backbone.keys() if study.with_backbone[name].weights == "random"
    )
    said = study.notice.strip().rstrip(".") if study.notice else ""
    demo = study.dataset.kind in RENDERERS or "demo" in said.lower()
    tags = [*(["DEMO"] if demo else []), *(["RANDOM WEIGHTS"] if random else [])]
    if not (tags or said):
        return None
    sentences = [said] if said else ["DEMO: the clips are rendered"] if demo else []
    if random:
        sentences.append(f"Random weights in {', '.join(random)}")
    if "reproduction" not in said.lower():
        sentences.append("Not a reproduction of the published numbers")
    return Notice(", ".join(tags) or "NOT A REPRODUCTION", ". ".join(sentences) + ".")
