"""The tile that the memory allows."""

from stvsr_jax.inference import tile_size


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


def test_small_windows_go_to_an_accelerator_together():
    choose = tile_size.choose_batch
    assert [choose(4, 180, 320, platform) for platform in ("cpu", "gpu", "tpu")] == [1, 1, 1]
    assert choose(2, 180, 320, "gpu") == 2 and choose(4, 90, 160, "gpu") == 4
    assert choose(4, 8, 8, "gpu") == 8 and choose(4, 1080, 1920, "gpu") == 1
