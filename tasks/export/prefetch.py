"""Work ahead: what an iterator makes is made in a thread while the one before is used, and never much of it."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from queue import SimpleQueue
from threading import Semaphore, Thread
from typing import Generic, TypeVar

Item = TypeVar("Item")


class _Made(Generic[Item]):
    """What the thread hands over: an item, or that there are no more, or why."""

    __slots__ = ("error", "item", "over")

    def __init__(self, item: Item | None = None, *, over: bool = False, error: BaseException | None = None) -> None:
        self.item, self.over, self.error = item, over, error


def ahead(items: Iterable[Item], depth: int) -> Generator[Item, None, None]:
    """The same items, up to `depth` of them made before they are asked for. What `items` raises is raised here.

    When the caller stops early, `items` is closed, in its own thread, and waited for.
    """
    made: SimpleQueue[_Made[Item]] = SimpleQueue()
    # One is taken for each item that is being made or waits, so that nothing is made for which there is no room.
    room = Semaphore(depth)
    unwanted = False

    def make() -> None:
        left: Iterator[Item] = iter(items)
        try:
            while True:
                room.acquire()
                if unwanted:
                    return
                made.put(_Made(next(left)))
        except StopIteration:
            made.put(_Made(over=True))
        except BaseException as error:
            made.put(_Made(error=error))
        finally:
            if isinstance(left, Generator):
                left.close()

    thread = Thread(target=make, name="ahead", daemon=True)
    thread.start()
    try:
        while True:
            next_one = made.get()
            if next_one.error is not None:
                raise next_one.error
            if next_one.over:
                return
            room.release()
            yield next_one.item  # type: ignore[misc]
            del next_one
    finally:
        unwanted = True
        room.release()
        thread.join()
