"""Packets on disk."""

from fractions import Fraction

import av
import numpy as np
import pytest

from stvsr_jax.video import packet_store
from stvsr_jax.video.packet_store import PacketStore

BASE = Fraction(1, 25)


def packet(number):
    made = av.Packet(bytes([number]) * (number + 1))
    made.pts, made.duration, made.is_keyframe = number, 3, number == 0
    return made


def facts(store):
    return [(bytes(p), p.pts, p.dts, p.duration, bool(p.is_keyframe), p.time_base) for p in store.read()]


def test_packets_come_back_and_are_cut_to_the_mark(tmp_path):
    path = tmp_path / "0.packets"
    store = PacketStore(path, BASE)
    for number in range(3):
        store.append(packet(number))
    mark = store.flush()
    store.append(packet(3))
    expected = [(bytes([n]) * (n + 1), n, n, 3, n == 0, BASE) for n in range(4)]
    assert facts(store) == expected
    store.close()

    store = PacketStore(path, BASE, mark)
    assert facts(store) == expected[:3]
    store.append(packet(3))
    assert facts(store) == expected
    store.close()
    assert facts(PacketStore(path, BASE)) == []


def test_a_file_that_shrank_is_named(tmp_path):
    path = tmp_path / "0.packets"
    PacketStore(path, BASE).close()
    with pytest.raises(ValueError, match="0.packets is shorter than it was"):
        PacketStore(path, BASE, [5, 5])


@pytest.mark.parametrize(
    ("pts", "dts"),
    [
        ([], []),
        ([7], [7]),
        ([0, 10, 20], [0, 10, 20]),
        ([0, 4, 2, 1, 3, 5], [-2, -1, 0, 1, 2, 3]),
        # Two segments, the second without its second frame: x264 would begin it at 3, below 4.
        ([0, 4, 2, 1, 3, 5, 7, 10, 8, 9], [-2, -1, 0, 1, 2, 3, 4, 5, 7, 8]),
        ([100, 130, 110, 120], [99, 100, 110, 120]),
    ],
)
def test_decoding_times_follow_from_the_order(pts, dts):
    assert packet_store.decoding_times(np.array(pts, np.int64)).tolist() == dts


def test_decoding_times_rise_and_come_before_presentation():
    rng = np.random.default_rng(0)
    for _ in range(100):
        shown = np.cumsum(rng.integers(1, 9, 40))
        stored = np.concatenate([rng.permutation(group) for group in np.split(shown, [7, 8, 20])])
        dts = packet_store.decoding_times(stored)
        assert (np.diff(dts) > 0).all() and (dts <= stored).all()
