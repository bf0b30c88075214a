"""The parsing scores by the field's definition: clip by clip, category by category, event by event.

A second implementation, slow and obvious, for tests and for `benchmarks/parsing_metrics.py`. A matrix is plain lists of 0
and 1, [category][segment], one matrix a clip.
"""

from collections.abc import Sequence

Matrix = Sequence[Sequence[int]]
Count = tuple[int, int, int]
"""True positives, false positives, false negatives."""


def scores_by_definition(
    truth_audio: Sequence[Matrix],
    truth_visual: Sequence[Matrix],
    audio: Sequence[Matrix],
    visual: Sequence[Matrix],
) -> dict[str, float]:
    """The ten scores; each argument is a matrix a clip."""
    scores = {}
    for level, count in (("segment", count_segments), ("event", count_events)):
        lists: dict[str, list[float]] = {"audio": [], "visual": [], "audio_visual": [], "event": []}
        for true_a, true_v, said_a, said_v in zip(truth_audio, truth_visual, audio, visual, strict=True):
            a = [count(t, p) for t, p in zip(true_a, said_a, strict=True)]
            v = [count(t, p) for t, p in zip(true_v, said_v, strict=True)]
            both, said_both = product(true_a, true_v), product(said_a, said_v)
            av = [count(t, p) for t, p in zip(both, said_both, strict=True)]
            added = [(x[0] + y[0], x[1] + y[1], x[2] + y[2]) for x, y in zip(a, v, strict=True)]
            for kind, counts in (("audio", a), ("visual", v), ("audio_visual", av), ("event", added)):
                lists[kind].append(clip_score(counts))
        found = {kind: sum(values) / len(values) for kind, values in lists.items()}
        found["type"] = (found["audio"] + found["visual"] + found["audio_visual"]) / 3
        scores |= {f"{level}_{kind}": value for kind, value in found.items()}
    return scores


def product(one: Matrix, other: Matrix) -> Matrix:
    """Element by element."""
    return [[x * y for x, y in zip(*rows, strict=True)] for rows in zip(one, other, strict=True)]


def clip_score(counts: Sequence[Count]) -> float:
    """The mean of F over the categories that are true or predicted; 1 if there is none."""
    f_scores = [2 * tp / (2 * tp + fp + fn) for tp, fp, fn in counts if tp + fp + fn > 0]
    return sum(f_scores) / len(f_scores) if f_scores else 1.0


def count_segments(truth: Sequence[int], prediction: Sequence[int]) -> Count:
    """Of one category in one clip."""
    tp = fp = fn = 0
    for t, p in zip(truth, prediction, strict=True):
        tp += t and p
        fp += p and not t
        fn += t and not p
    return tp, fp, fn


def count_events(truth: Sequence[int], prediction: Sequence[int]) -> Count:
    """Of one category in one clip; two events match if their intersection over union is at least 0.5."""
    true_events, events = events_of(truth), events_of(prediction)
    tp = sum(any(match(event, true) for true in true_events) for event in events)
    found = sum(any(match(event, true) for event in events) for true in true_events)
    return tp, len(events) - tp, len(true_events) - found


def events_of(row: Sequence[int]) -> list[set[int]]:
    """Maximal runs of ones, as sets of segments."""
    events: list[set[int]] = []
    for t, value in enumerate(row):
        if value and t and row[t - 1]:
            events[-1].add(t)
        elif value:
            events.append({t})
    return events


def match(event: set[int], true: set[int]) -> bool:
    return len(event & true) >= 0.5 * len(event | true)
