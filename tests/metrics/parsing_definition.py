"""The parsing scores as the field's evaluator writes them: clip by clip, category by category, event by event.

A second implementation, slow and obvious, for tests and for `benchmarks/parsing_metrics.py`. Plain lists of 0 and 1,
[category][segment], one pair of matrices a clip.
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
        for clip in zip(truth_audio, truth_visual, audio, visual, strict=True):
            heard, seen, says_heard, says_seen = clip
            a = [count(t, p) for t, p in zip(heard, says_heard, strict=True)]
            v = [count(t, p) for t, p in zip(seen, says_seen, strict=True)]
            both, says_both = product(heard, seen), product(says_heard, says_seen)
            av = [count(t, p) for t, p in zip(both, says_both, strict=True)]
            lists["audio"].append(clip_score(a))
            lists["visual"].append(clip_score(v))
            lists["audio_visual"].append(clip_score(av))
            added = [
                tuple(x + y for x, y in zip(one, other, strict=True)) for one, other in zip(a, v, strict=True)
            ]
            lists["event"].append(clip_score(added))
        found = {kind: sum(values) / len(values) for kind, values in lists.items()}
        found["type"] = (found["audio"] + found["visual"] + found["audio_visual"]) / 3
        scores |= {f"{level}_{kind}": value for kind, value in found.items()}
    return scores


def product(one: Matrix, other: Matrix) -> Matrix:
    """Element by element."""
    return [
        [x * y for x, y in zip(row, row_of_other, strict=True)]
        for row, row_of_other in zip(one, other, strict=True)
    ]


def clip_score(counts: Sequence[tuple[int, ...]]) -> float:
    """The mean of F over the categories that are there; 1 if none is."""
    f_scores = []
    for tp, fp, fn in counts:
        if tp + fp > 0 or tp + fn > 0:
            f_scores.append(2 * tp / (2 * tp + fp + fn))
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
    """Of one category in one clip; two events match from an intersection over union of 0.5 on."""
    true_events, events = events_of(truth), events_of(prediction)
    tp = sum(any(match(event, true) for true in true_events) for event in events)
    found = sum(any(match(event, true) for event in events) for true in true_events)
    return tp, len(events) - tp, len(true_events) - found


def events_of(row: Sequence[int]) -> list[set[int]]:
    """Maximal runs of ones, as sets of segments."""
    events: list[set[int]] = []
    for t, value in enumerate(row):
        if value:
            if t and row[t - 1]:
                events[-1].add(t)
            else:
                events.append({t})
    return events


def match(event: set[int], true: set[int]) -> bool:
    return len(event & true) >= 0.5 * len(event | true)
