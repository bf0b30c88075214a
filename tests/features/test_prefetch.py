import threading
import time
from collections.abc import Iterator

import pytest

from avpipe.features.prefetch import prefetched


def test_keeps_the_order() -> None:
    with prefetched(iter(range(100)), 3) as items:
        assert list(items) == list(range(100))


def test_runs_a_bounded_number_ahead() -> None:
    made: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    with prefetched(numbers(), 2) as items:
        next(items)
        time.sleep(0.2)
        assert len(made) <= 5  # one taken, two waiting, one in hand, one being made


def test_an_error_comes_where_its_item_would() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise ValueError("no second")

    with prefetched(failing(), 5) as items:
        assert next(items) == 1
        with pytest.raises(ValueError, match="no second"):
            next(items)


def test_leaving_early_stops_the_thread_and_closes_the_source() -> None:
    closed: list[bool] = []

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 0
        finally:
            closed.append(True)

    before = threading.active_count()
    with prefetched(endless(), 1) as items:
        next(items)
    assert closed == [True]
    assert threading.active_count() == before
