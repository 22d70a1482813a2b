"""Work ahead: a thread makes the next items while the caller uses the last."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def ahead(items: Generator[Item, None, None], most: int) -> Generator[Item, None, None]:
    """The same items in the same order, made in a thread of their own, where they are closed too.

    The thread ends with the items, with the error that they raise, and with this generator, whose closing waits for the
    item in work.

    Args:
        items: not begun yet.
        most: the most items to make before the caller asks for them.
    """
    end = object()
    with ThreadPoolExecutor(1) as worker:
        results = deque(worker.submit(next, items, end) for _ in range(most))
        try:
            while (item := results.popleft().result()) is not end:
                results.append(worker.submit(next, items, end))
                yield item  # pyright: ignore[reportReturnType] - it is not the end
        finally:
            for result in results:
                result.cancel()
            worker.submit(items.close).result()
