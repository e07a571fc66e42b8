"""Work spread over processes of this machine."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, TypeVar

from .. import FacestreamError

Work = TypeVar("Work")
Result = TypeVar("Result")


def spread_over_processes(
    start: Callable[[], Callable[[Work], Result]], workers: int, todo: Mapping[int, Work]
) -> Generator[tuple[int, Result], None, None]:
    """The result of every piece of work with its number, as they come; few are under way at a time.

    start: called once in each of `workers` processes, returns what does a piece of work there; it,
    the work and the results must be picklable. Raises FacestreamError when a process was killed.
    """
    waiting: dict[Future[Any], int] = {}
    numbers = iter(todo)
    pool = ProcessPoolExecutor(
        workers, get_context("spawn"), initializer=_begin_worker, initargs=(start,)
    )
    try:
        while True:
            while len(waiting) < 2 * workers and (number := next(numbers, None)) is not None:
                waiting[pool.submit(_do, todo[number])] = number
            if not waiting:
                return
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                yield waiting.pop(future), future.result()
    except BrokenProcessPool as error:
        raise FacestreamError(
            "a worker process ended before its time (killed, or out of memory): what is embedded "
            "is kept; run the command again, with fewer workers if memory is short"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_worker: Callable[[Any], Any]  # of this worker process


def _begin_worker(start: Callable[[], Callable[[Any], Any]]) -> None:
    global _worker
    _worker = start()


def _do(work: Any) -> Any:
    return _worker(work)
