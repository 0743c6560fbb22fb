"""Pictures as an input: their order, and errors that name them."""

import numpy as np
import pytest
from PIL import Image

from stvsr_jax.video import picture_folder


def test_unusable_pictures_are_named(tmp_path):
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
    Image.fromarray(grey.astype(np.float32)).save(tmp_path / "real.tif")
    with pytest.raises(ValueError, match="real.tif cannot be read: it has real numbers"):
        picture_folder.read_header(tmp_path / "real.tif")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match="text.png cannot be read"):
        picture_folder.read_header(tmp_path / "text.png")
    Image.fromarray(grey.repeat(20, 0).repeat(20, 1)).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:120])
    header = picture_folder.read_header(tmp_path / "cut.png")
    assert (header.height, header.width, header.bit_depth) == (120, 160, 8)
    with pytest.raises(ValueError, match="cut.png cannot be read"):
        picture_folder.read_picture(tmp_path / "cut.png")


def test_order_is_that_of_the_numbers_without_hidden_files(tmp_path):
    for name in ("f10.png", "f9.PNG", ".f1.png", "notes.txt"):
        (tmp_path / name).touch()
    assert [file.name for file in picture_folder.list_pictures(tmp_path)] == ["f9.PNG", "f10.png"]
