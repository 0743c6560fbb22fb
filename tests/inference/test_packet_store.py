"""Packets on disk."""

from fractions import Fraction

import av
import pytest

from stvsr_jax.inference.packet_store import PacketStore

BASE = Fraction(1, 25)


def packet(number):
    made = av.Packet(bytes([number]) * (number + 1))
    made.pts, made.dts, made.duration, made.is_keyframe = number, number - 2, 3, number == 0
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
    expected = [(bytes([n]) * (n + 1), n, n - 2, 3, n == 0, BASE) for n in range(4)]
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
