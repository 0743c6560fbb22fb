"""Which output every input gets."""

import pytest

from stvsr_jax.inference.inputs import pair_up


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("v10.mp4", "v9.MOV", "notes.txt", ".hidden.mp4"):
        (folder / name).touch()
    return folder


def test_one_input_keeps_its_output(tmp_path, videos):
    output = tmp_path / "out.mkv"
    assert pair_up([videos / "v10.mp4"], output, suffix=".mp4") == ([(videos / "v10.mp4", output)], False)
    (tmp_path / "pictures").mkdir()
    assert pair_up([tmp_path / "pictures"], output, suffix=".mp4")[1] is False


def test_a_folder_of_videos_becomes_a_folder(tmp_path, videos):
    output = tmp_path / "out"
    expected = [(videos / "v9.MOV", output / "v9.mp4"), (videos / "v10.mp4", output / "v10.mp4")]
    assert pair_up([videos], output, suffix=".mp4") == (expected, True)


def test_shards_share_the_inputs(tmp_path):
    files = [tmp_path / f"{n}.mp4" for n in range(5)]
    for file in files:
        file.touch()
    shares = [pair_up(files, tmp_path / "out", suffix="", shard=(n, 3))[0] for n in range(3)]
    assert [[int(source.stem) for source, _ in share] for share in shares] == [[0, 3], [1, 4], [2]]
    assert shares[2] == [(files[2], tmp_path / "out" / "2")]


def test_ambiguous_inputs_are_named(tmp_path, videos):
    with pytest.raises(ValueError, match="none.mp4 does not exist"):
        pair_up([tmp_path / "none.mp4"], tmp_path / "out", suffix="")
    (videos / "v9.mkv").touch()
    with pytest.raises(ValueError, match="one output, .*v9.mp4"):
        pair_up([videos], tmp_path / "out", suffix=".mp4")
    (videos / "a.png").touch()
    with pytest.raises(ValueError, match="holds videos and pictures"):
        pair_up([videos], tmp_path / "out", suffix=".mp4")
    with pytest.raises(ValueError, match="must be a folder"):
        pair_up([videos / "v9.mkv", videos / "v10.mp4"], videos / "v9.MOV", suffix=".mp4")
    with pytest.raises(ValueError, match="shard=3/3"):
        pair_up([videos / "v9.mkv"], tmp_path / "out", suffix="", shard=(3, 3))
