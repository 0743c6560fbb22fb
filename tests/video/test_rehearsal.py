"""What becomes of streams, chosen by trying."""

import errno

import av
import pytest

from stvsr_jax.video.rehearsal import choose_treatments
from stvsr_jax.video.remux import SideStream

SOUND = SideStream(1, "audio", "audio stream 1 (x)", True, "5.1")
OTHER = SideStream(2, "audio", "audio stream 2 (y)", True, "stereo")
WORDS = SideStream(3, "subtitle", "subtitle stream 3 (z)", False, None)


def choose(streams, works, format_name="mp4"):
    """Returns ([(index, codec, layout)], notes); `works` is asked of each treatment that is tried."""

    def rehearse(treatments):
        for treatment in treatments:
            if not works(treatment.stream.index, treatment.codec, treatment.layout):
                raise av.error.InvalidDataError(errno.EINVAL, "not that", "/tmp/scratch/trial.mp4")

    chosen, notes = choose_treatments(streams, rehearse, format_name=format_name)
    return [(t.stream.index, t.codec, t.layout) for t in chosen], notes


def test_all_are_copied_if_they_can_be():
    assert choose([SOUND, WORDS], lambda *given: True) == ([(1, None, "5.1"), (3, None, None)], [])
    assert choose([], lambda *given: True) == ([], [])


def test_only_the_one_that_does_not_fit_is_converted():
    chosen, notes = choose([SOUND, OTHER, WORDS], lambda index, codec, layout: index != 1 or codec)
    assert chosen == [(1, "aac", "5.1"), (2, None, "stereo"), (3, None, None)]
    assert notes == ["audio stream 1 (x) does not fit mp4 and is converted to aac"]


@pytest.mark.parametrize(
    ("format_name", "works", "expected", "words"),
    [
        ("webm", lambda index, codec, layout: codec, (1, "libopus", "5.1"), "converted to opus"),
        (
            "mp4",
            lambda index, codec, layout: codec and layout == "stereo",
            (1, "aac", "stereo"),
            "aac, stereo",
        ),
        ("mp4", lambda index, codec, layout: codec == "flac", (1, "flac", "5.1"), "converted to flac"),
    ],
)
def test_encoders_and_layouts_are_tried_in_turn(format_name, works, expected, words):
    chosen, notes = choose([SOUND], works, format_name)
    assert chosen == [expected] and len(notes) == 1 and words in notes[0]


def test_what_never_fits_is_left_out_and_named_without_scratch_files():
    chosen, notes = choose([SOUND, WORDS], lambda *given: False)
    assert chosen == []
    assert notes == [
        "audio stream 1 (x) does not fit mp4 and is left out (not that)",
        "subtitle stream 3 (z) does not fit mp4 and is left out (not that)",
    ]


def test_streams_that_fit_alone_but_not_together_lose_the_later():
    def rehearse(treatments):
        if len(treatments) > 1:
            raise ValueError("one stream")

    chosen, notes = choose_treatments([WORDS, SOUND], rehearse, format_name="x")
    assert [t.stream.index for t in chosen] == [3] and "audio stream 1" in notes[0]


def test_a_full_disk_is_not_the_fault_of_a_stream():
    def rehearse(treatments):
        raise av.error.FFmpegError(errno.ENOSPC, "No space left on device")

    with pytest.raises(av.FFmpegError, match="No space"):
        choose_treatments([SOUND], rehearse, format_name="mp4")
