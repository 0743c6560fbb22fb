"""Segments are stored in order, each with its progress, and nothing after one that failed."""

import concurrent.futures
import types

import pytest

from stvsr_jax import stages
from stvsr_jax.inference import saving
from stvsr_jax.video.writers import Segment


class Folder:
    def __init__(self):
        self.saved = []

    def save(self, progress):
        self.saved.append(progress)


class Writer:
    """Its segments are encoded when the test says so."""

    def __init__(self):
        self.segments, self.stored, self.is_closed = [], [], False

    def cut(self):
        self.segments.append(Segment(concurrent.futures.Future(), len(self.segments)))
        return self.segments[-1]

    def store(self, segment):
        self.stored.append(segment.packets.result())
        return {"mark": segment.mark}

    def close(self):
        self.is_closed = True
        for segment in self.segments:
            segment.packets.cancel()


def make():
    folder, writer = Folder(), Writer()
    sinks = [saving.Sink(writer, lambda output: None)]
    network = types.SimpleNamespace(tile=64)
    return folder, writer, saving.Saver(folder, sinks, network, 3, 0, stages.Timer("store"))


def test_segments_are_stored_in_order_though_later_ones_are_encoded_first():
    folder, writer, saver = make()
    with saver:
        saver.save(10)
        saver.save(15, is_complete=True)
        writer.segments[1].packets.set_result(["b"])
        assert not folder.saved
        writer.segments[0].packets.set_result(["a"])
        saver.wait()
    assert writer.stored == [["a"], ["b"]]
    assert folder.saved == [
        {"batch": 3, "outputs": 10, "is_complete": False, "marks": [{"mark": 0}], "tile": 64},
        {"batch": 3, "outputs": 15, "is_complete": True, "marks": [{"mark": 1}], "tile": 64},
    ]


def test_nothing_follows_a_segment_that_failed():
    folder, writer, saver = make()
    with pytest.raises(OSError, match="no space"), saver:
        for count in (10, 20, 30):
            saver.save(count)
        writer.segments[0].packets.set_result(["a"])
        writer.segments[1].packets.set_exception(OSError("no space"))
        writer.segments[2].packets.set_result(["c"])
        saver.wait()
    assert [progress["outputs"] for progress in folder.saved] == [10] and writer.stored == [["a"]]


def test_an_error_elsewhere_waits_for_what_is_under_way():
    folder, writer, saver = make()
    with pytest.raises(ZeroDivisionError), saver:
        saver.save(10)
        writer.segments[0].packets.set_result(["a"])
        raise ZeroDivisionError
    assert [progress["outputs"] for progress in folder.saved] == [10]


def test_an_interruption_does_not_wait():
    folder, writer, saver = make()
    with pytest.raises(KeyboardInterrupt), saver:
        saver.save(10)
        raise KeyboardInterrupt
    assert writer.is_closed and not folder.saved and not writer.stored
