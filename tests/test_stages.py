"""Stages: order, bounds, errors, threads that end, and time that is measured."""

import threading
import time

import pytest

from stvsr_jax import stages


def timer(workers=1):
    return stages.Timer("read", workers)


def count_threads():
    return threading.active_count()


def test_read_ahead_keeps_the_order_and_is_bounded():
    made = []

    def items():
        for n in range(20):
            made.append(n)
            yield n

    stream = stages.read_ahead(items(), 3, timer())
    assert next(stream) == 0
    time.sleep(0.1)
    assert len(made) <= 1 + 3 + 1  # taken, waiting, and one that waits for room
    assert list(stream) == list(range(1, 20))


def test_an_error_comes_after_the_items_before_it():
    def items():
        yield from range(3)
        raise OSError("broken")

    for stream in (
        stages.read_ahead(items(), 2, timer()),
        stages.map_ahead(lambda n: n, items(), workers=2, ahead=2, timer=timer()),
    ):
        found = []
        with pytest.raises(OSError, match="broken"):
            for n in stream:
                found.append(n)
        assert found == [0, 1, 2]


def test_closing_ends_the_threads_and_the_source():
    before, closed = count_threads(), []

    def items():
        try:
            n = 0
            while True:
                yield n
                n += 1
        finally:
            closed.append(threading.current_thread())

    for stream in (
        stages.read_ahead(items(), 2, timer()),
        stages.map_ahead(lambda n: n, items(), workers=2, ahead=4, timer=timer()),
    ):
        assert next(stream) == 0
        stream.close()
    assert len(closed) == 2 and count_threads() == before


def test_each_thread_is_initialised_once():
    own, started = threading.local(), []

    def start():
        own.name = threading.current_thread().name
        started.append(own.name)

    found = set(stages.map_ahead(lambda _: own.name, range(20), workers=2, ahead=4, initializer=start))
    assert found <= set(started) and 1 <= len(started) == len(set(started)) <= 2


def test_map_ahead_keeps_the_order_and_is_bounded():
    taken = []

    def items():
        for n in range(30):
            taken.append(n)
            yield n

    def work(n):
        time.sleep(0.01 * (n % 3))
        return n * n

    stream = stages.map_ahead(work, items(), workers=3, ahead=5, timer=timer(3))
    assert next(stream) == 0 and len(taken) == 6
    assert list(stream) == [n * n for n in range(1, 30)]


def test_an_error_of_a_call_comes_in_its_place():
    stream = stages.map_ahead(lambda n: 1 // (2 - n), range(9), workers=3, ahead=3, timer=timer())
    assert [next(stream), next(stream)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(stream)


def test_busy_time_is_that_of_the_workers():
    one = timer(workers=2)

    def work(items):
        with one.busy(items):
            time.sleep(0.1)

    threads = [threading.Thread(target=work, args=(3,)) for _ in range(4)]  # two of them wait, as on a device
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    usage = one.usage(wall_seconds=0.4)
    assert usage.items == 12 and 0.19 <= usage.busy_seconds < 0.3
    assert usage.share_busy == pytest.approx(usage.busy_seconds / 0.8)
    assert usage.rate == pytest.approx(24 / usage.busy_seconds)


def test_timers_come_in_the_order_of_the_work():
    timers = stages.Timers()
    timers.add("encode", 2)
    timers.add("read")
    with timers.add("network").busy(5):
        time.sleep(0.01)
    found = timers.usage()
    assert [usage.name for usage in found] == ["read", "network", "encode"]
    assert found[1].items == 5 and 0 < found[1].share_busy <= 1 and found[0].rate == float("inf")
