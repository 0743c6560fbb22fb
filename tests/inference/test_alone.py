"""The rate of a network on its devices, with one that counts and takes its time."""

import time

import numpy as np
import pytest

from stvsr_jax.inference import alone


class Device:
    """A device that runs what is started on it one after the other."""

    def __init__(self, seconds):
        self.seconds, self.calls, self.free = seconds, 0, 0.0


class Result:
    def __init__(self, end):
        self._end = end

    def block_until_ready(self):
        time.sleep(max(0.0, self._end - time.perf_counter()))
        return self


class Network:
    def __init__(self, *seconds):
        self.devices = [Device(one) for one in seconds]
        self.settings = []

    def start_windows(self, frames, times, *, device, **settings):
        one = self.devices[device]
        one.calls += 1
        one.free = max(one.free, time.perf_counter()) + one.seconds
        self.settings.append(settings)
        return [Result(one.free)]


def measure(network, **limits):
    return alone.calls_per_second(
        network, np.zeros((1, 4, 8, 8, 3), np.uint8), [(0,)], **limits, out_size=(32, 32)
    )


@pytest.mark.parametrize("count", [1, 2, 4])
def test_devices_run_side_by_side(count):
    network = Network(*[0.02] * count)
    assert measure(network, seconds=60, calls=20) == pytest.approx(50 * count, rel=0.25)
    assert [one.calls for one in network.devices] == [20] * count
    assert network.settings == [{"out_size": (32, 32)}] * 20 * count


def test_it_ends_after_some_seconds():
    began = time.perf_counter()
    assert measure(Network(0.02), seconds=0.2, calls=10**6) == pytest.approx(50, rel=0.25)
    assert time.perf_counter() - began < 1
