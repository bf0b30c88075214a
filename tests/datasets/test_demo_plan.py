"""The claims of the demo dataset that hold before anything is drawn."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from avpipe.datasets.demo_plan import CLASSES, SECONDS, co_occurrences, plan_clip

PLANS = [plan_clip(index, seed=0) for index in range(400)]

any_plan = st.builds(plan_clip, index=st.integers(0, 10**6), seed=st.integers(0, 2**32))


def test_every_class_shares_its_look_with_one_other_and_its_sound_with_another():
    for kind in CLASSES:
        alike = [other for other in CLASSES if other != kind and other.look == kind.look]
        same_voice = [other for other in CLASSES if other != kind and other.sound == kind.sound]
        assert len(alike) == len(same_voice) == 1
        assert alike[0].sound != kind.sound
        assert same_voice[0].look != kind.look
        assert alike[0].lively != kind.lively
        assert same_voice[0].lively != kind.lively


@given(any_plan)
def test_intervals_are_whole_seconds_inside_the_clip(plan):
    for interval in (*plan.audio, *plan.visual):
        assert 0 <= interval.onset < interval.offset <= SECONDS
    assert len(plan.event.seconds) == 0 or len(plan.event.seconds) >= 2


@given(any_plan)
def test_look_and_sound_of_a_class_coincide_in_its_event_only(plan):
    assert co_occurrences(plan.audio, plan.visual) == {
        (second, plan.event.category) for second in plan.event.seconds
    }


@given(any_plan)
def test_nothing_hides_the_ends_of_an_event(plan):
    ends = {*plan.event.seconds[:1], *plan.event.seconds[-1:]}
    assert not ends & (plan.occluded | plan.masked)


@given(any_plan)
def test_distractors_are_of_another_class(plan):
    for event, *others in (plan.audio, plan.visual):
        assert event.category == plan.event.category not in {other.category for other in others}


def test_every_class_is_in_every_split_of_56_clips():
    counts = Counter((plan.split, plan.event.category) for plan in PLANS[:56])
    # 56 = 7 x 8: of each class 4 train, 1 val, 2 test
    assert counts == {(split, k): n for split, n in (("train", 4), ("val", 1), ("test", 2)) for k in range(8)}


def test_ids_look_like_youtube_ids_and_differ():
    ids = {plan.id for plan in PLANS}
    assert len(ids) == len(PLANS)
    assert all(len(name) == 11 for name in ids)


def test_each_difficulty_occurs_in_15_to_75_percent_of_the_clips():
    shares = {
        "audio without visual": sum(set(p.audio[0].seconds) > set(p.event.seconds) for p in PLANS),
        "visual without audio": sum(set(p.visual[0].seconds) > set(p.event.seconds) for p in PLANS),
        "audio distractor": sum(len(p.audio) > 1 for p in PLANS),
        "visual distractor": sum(len(p.visual) > 1 for p in PLANS),
        "occluded in the event": sum(bool(p.occluded & set(p.event.seconds)) for p in PLANS),
        "masked in the event": sum(bool(p.masked & set(p.event.seconds)) for p in PLANS),
        "background only": 2 * sum(not p.event.seconds for p in PLANS),
        "whole clip": sum(len(p.event.seconds) == SECONDS for p in PLANS),
    }
    assert all(0.15 <= count / len(PLANS) <= 0.75 for count in shares.values()), shares


def test_disturbances_do_not_tell_events_from_background():
    """Of the seconds with and without an event, about as many are occluded, the ends of events left out."""
    inside = [(s, p) for p in PLANS for s in p.event.seconds[1:-1]]
    outside = [(s, p) for p in PLANS for s in range(SECONDS) if s not in p.event.seconds]
    rates = [sum(s in p.occluded for s, p in seconds) / len(seconds) for seconds in (inside, outside)]
    assert abs(rates[0] - rates[1]) < 0.04, rates
