"""Measures the ten parsing scores of 1,200 clips (as many as LLP's test split) and the same definition in plain Python.

Random events of LLP's density: about two categories a clip, one or two runs each; predictions are the truth with
borders moved and events added and left out. Both score the same arrays, in turn.
"""

import statistics
import sys
import time
from pathlib import Path

import numpy as np

from avpipe.metrics.parsing import parsing_scores

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "metrics"))
from parsing_definition import scores_by_definition

CLIPS, SEGMENTS, CATEGORIES, ROUNDS = 1_200, 10, 25, 5


def random_events(rng: np.random.Generator, a_clip: float) -> np.ndarray:
    """(N, T, C) of 0 and 1."""
    labels = np.zeros((CLIPS, SEGMENTS, CATEGORIES), dtype=np.int64)
    for clip in range(CLIPS):
        for _ in range(rng.poisson(a_clip)):
            begin = rng.integers(SEGMENTS)
            labels[clip, begin : begin + rng.integers(1, SEGMENTS), rng.integers(CATEGORIES)] = 1
    return labels


def main() -> None:
    rng = np.random.default_rng(0)
    truth = [random_events(rng, a_clip) for a_clip in (2.2, 1.4)]  # LLP's test split: 2638 and 1625 events
    predicted = [np.roll(t, rng.integers(-1, 2), axis=1) | random_events(rng, 0.5) for t in truth]
    arrays = [*truth, *predicted]
    lists = [array.transpose(0, 2, 1).tolist() for array in arrays]  # a matrix [category][segment] a clip
    seconds: dict[str, list[float]] = {"avpipe": [], "definition": []}
    for _ in range(ROUNDS):
        started = time.perf_counter()
        scores = parsing_scores(*arrays)
        seconds["avpipe"].append(time.perf_counter() - started)
        started = time.perf_counter()
        expected = scores_by_definition(*lists)
        seconds["definition"].append(time.perf_counter() - started)
    difference = max(abs(scores[name] - expected[name]) for name in expected)
    ours, theirs = (statistics.median(taken) for taken in seconds.values())
    print(
        f"| parsing scores of {CLIPS:,} clips: avpipe {ours * 1000:.1f} ms, the plain definition {theirs * 1000:.0f} ms; "
        f"largest difference {difference:.0e} | {theirs / ours:.0f}x | >= 50x |"
    )


if __name__ == "__main__":
    main()
