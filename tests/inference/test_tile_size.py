"""The tile that the memory allows."""

from stvsr_jax.inference import tile_size


def test_tile_is_chosen_by_memory(monkeypatch):
    monkeypatch.setattr(tile_size, "available_memory", lambda: 8 * 2**30)
    assert tile_size.choose_tile("zooming_slowmo", 128, 128) == 0
    tile = tile_size.choose_tile("zooming_slowmo", 2160, 3840)
    assert tile_size.SMALLEST_TILE <= tile < 400 and tile % 4 == 0
