"""The tile that the memory allows."""

import pytest

from stvsr_jax.inference import tile_size
from stvsr_jax.models import contract_of


def test_tile_is_chosen_by_memory(monkeypatch):
    monkeypatch.setattr(tile_size, "available_memory", lambda: 8 * 2**30)
    assert tile_size.choose_tile("zooming_slowmo", 128, 128) == 0
    tile = tile_size.choose_tile("zooming_slowmo", 2160, 3840)
    assert tile_size.SMALLEST_TILE <= tile < 400 and tile % 4 == 0


def test_memory_is_the_devices_if_it_says_so(monkeypatch):
    class Device:
        device_kind = "cpu"

        def memory_stats(self):
            return self.stats

    device = Device()
    monkeypatch.setattr(tile_size.jax, "local_devices", lambda: [device])
    monkeypatch.setattr(tile_size.host_memory, "available_memory", lambda: 3 * 2**30)
    for device.stats, expected in ((None, 3), ({}, 3), ({"bytes_limit": 80 * 2**30}, 80)):
        assert tile_size.available_memory() == expected * 2**30
    device.stats, device.device_kind = None, "TPU v5 lite"
    assert tile_size.available_memory() == 16e9


@pytest.mark.parametrize("kind", ["TPU v4", "TPU v5 lite", "TPU v5", "TPU v6 lite"])
@pytest.mark.parametrize("name", ["zooming_slowmo", "videoinr"])
def test_tiles_fit_into_the_memory_of_a_tpu(monkeypatch, kind, name):
    class Device:
        device_kind = kind

        def memory_stats(self):
            return None

    monkeypatch.setattr(tile_size.jax, "local_devices", lambda: [Device()])
    memory = {"TPU v4": 32 * 2**30, "TPU v5 lite": 16e9, "TPU v5": 95e9, "TPU v6 lite": 32e9}[kind]
    bytes_per_pixel = contract_of(name).bytes_per_pixel
    assert tile_size.choose_tile(name, 180, 320) == 0
    tile = tile_size.choose_tile(name, 2160, 3840)
    assert 0.45 * memory < bytes_per_pixel * tile**2 < 0.5 * memory


def test_small_windows_go_to_an_accelerator_together():
    choose = tile_size.choose_batch
    assert [choose(4, 180, 320, platform) for platform in ("cpu", "gpu", "tpu")] == [1, 1, 1]
    assert choose(2, 180, 320, "gpu") == 2 and choose(4, 90, 160, "gpu") == 4
    assert choose(4, 8, 8, "gpu") == 8 and choose(4, 1080, 1920, "gpu") == 1
