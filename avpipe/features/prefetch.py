"""Running the maker of things in a thread of its own, a bounded number of them ahead."""

import contextlib
import queue
import threading
from collections.abc import Iterator
from typing import TypeVar

Item = TypeVar("Item")
_END = object()


@contextlib.contextmanager
def prefetched(items: Iterator[Item], ahead: int) -> Iterator[Iterator[Item]]:
    """Iterate over `items` while a thread computes up to `ahead` of them in advance.

    An error in the thread is raised where the item would have come. Leaving the block early stops the thread after
    the item that it is at, and closes `items` there.

    Args:
        items: a generator, or any iterator; used by the thread alone.
        ahead: how many finished items may wait.
    """
    waiting: queue.Queue[object] = queue.Queue(ahead)
    stopped = threading.Event()
    failures: list[BaseException] = []

    def put(item: object) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                waiting.put(item, timeout=0.1)
                return

    def run() -> None:
        try:
            for item in items:
                put(item)
                if stopped.is_set():
                    break
        except BaseException as error:  # for the consumer, which raises it
            failures.append(error)
        finally:
            if hasattr(items, "close"):
                items.close()
            put(_END)

    def consume() -> Iterator[Item]:
        while (item := waiting.get()) is not _END:
            yield item  # type: ignore[misc]
        if failures:
            raise failures[0]

    thread = threading.Thread(target=run, name="prefetch", daemon=True)
    thread.start()
    try:
        yield consume()
    finally:
        stopped.set()
        thread.join()
