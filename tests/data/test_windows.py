"""Window descriptions, recipes, and the windows that clips offer."""

import dataclasses

import pytest

from stvsr_jax.data.windows import (
    Windows,
    list_windows,
    make_recipe,
    sort_out,
    stage_at,
    videoinr,
    zooming_slowmo,
)


def test_zooming_slowmo_is_the_published_septuplet():
    ((first, spec),) = make_recipe("zooming_slowmo")
    assert first == 0
    assert (spec.window, spec.inputs, spec.num_times) == (7, (0, 2, 4, 6), None)
    assert (spec.scale, spec.lr_crop, spec.hr_reduce, spec.span, spec.min_size) == (4, 32, 1, 7, 128)
    assert spec.reverse_time


def test_videoinr_is_the_published_two_stages():
    recipe = make_recipe("videoinr", hr_reduce=2)  # of 720p
    (zero, first), (boundary, second) = recipe
    assert (zero, boundary) == (0, 450_000)
    assert (first.window, first.inputs, first.num_times, first.scale) == (9, (0, 8), 1, 4)
    assert (second.num_times, second.scale, second.augment_per_batch) == (3, (2.0, 4.0), True)
    assert first.min_size == second.min_size == 256
    assert stage_at(recipe, 449_999) is first and stage_at(recipe, 450_000) is second
    assert len(make_recipe("videoinr", stage2_step=None)) == 1
    assert make_recipe("videoinr", stage2_step=0)[0][1].scale == (2.0, 4.0)


def test_time_stride_stretches_the_span():
    assert zooming_slowmo(time_stride=3)[0][1].span == 19


def test_every_window_inside_scenes_is_listed_once(array_clip):
    clips = [
        array_clip("a", 20, scenes=((0, 9), (9, 20))),
        array_clip("b", 7),
        array_clip("c", 5),
    ]
    windows = Windows(clips, 7)
    expected = [(0, s) for s in (0, 1, 2, 9, 10, 11, 12, 13)] + [(1, 0)]
    assert [windows[i] for i in range(len(windows))] == expected
    with pytest.raises(IndexError):
        windows[len(expected)]


def test_clips_without_windows_are_sorted_out_with_the_reason(array_clip):
    long = array_clip("long", 20, 128, 128)
    clips = [
        array_clip("short", 5, 128, 128),
        long,
        array_clip("cut", 12, 128, 128, scenes=((0, 6), (6, 12))),
        array_clip("flat", 20, 127, 300),
    ]
    assert sort_out(clips, zooming_slowmo()) == (
        [long],
        [
            "short has 5 frames without a cut; windows need 7 frames",
            "cut has 6 frames without a cut; windows need 7 frames",
            "flat is 300x127 pixels; crops of lr_crop * scale * hr_reduce need at least 128x128",
        ],
    )
    # The stage with the largest crops decides.
    recipe = videoinr(scale=2, stage2_step=10, lr_crop=16, hr_reduce=2)
    assert recipe[0][1].min_size == 64 and sort_out(clips, recipe)[1] == [
        "short has 5 frames without a cut; windows need 9 frames",
        "cut has 6 frames without a cut; windows need 9 frames",
        "flat is 300x127 pixels; crops of lr_crop * scale * hr_reduce need at least 128x128",
    ]


def test_short_clips_offer_no_windows(array_clip):
    clips = [array_clip("long", 20, 128, 128), array_clip("short", 5, 128, 128)]
    assert len(list_windows(clips, zooming_slowmo())) == 14


def test_no_clip_long_enough_is_an_error(array_clip):
    clip = array_clip("brief", 12, 128, 128, scenes=((0, 6), (6, 12)))
    with pytest.raises(ValueError, match="none of 1 clips has the 7 frames without a cut"):
        list_windows([clip], zooming_slowmo())


def test_small_clip_is_an_error(array_clip):
    with pytest.raises(ValueError, match="tiny is 176x144 pixels.* need at least 256x256"):
        list_windows([array_clip("tiny", 20, 144, 176)], videoinr(hr_reduce=2))
    assert len(list_windows([array_clip("tiny", 20, 144, 176)], videoinr(hr_reduce=1))) == 12


def test_no_clips_is_an_error():
    with pytest.raises(ValueError, match="no clips"):
        list_windows([], zooming_slowmo())


def test_wrong_numbers_are_named():
    with pytest.raises(ValueError, match="lr_crop=30 must be a positive multiple of 4"):
        zooming_slowmo(lr_crop=30)
    with pytest.raises(ValueError, match="window=8"):
        zooming_slowmo(window=8)
    with pytest.raises(ValueError, match="time_stride=0"):
        zooming_slowmo(time_stride=0)
    with pytest.raises(ValueError, match="num_times=10"):
        videoinr(num_times=10, hr_reduce=2)
    with pytest.raises(ValueError, match=r"scale=\(4.0, 2.0\)"):
        videoinr(stage2_scale=(4.0, 2.0), hr_reduce=2)
    with pytest.raises(ValueError, match="scale=2.5"):
        zooming_slowmo(scale=2.5)
    with pytest.raises(ValueError, match="recipe='edvr'"):
        make_recipe("edvr")
    spec = zooming_slowmo()[0][1]
    with pytest.raises(ValueError, match=r"inputs=\(0, 2\)"):
        dataclasses.replace(spec, inputs=(0, 2))


def test_stages_must_ascend_and_span_the_same(array_clip):
    clips = [array_clip("a", 30, 256, 256)]
    spec = zooming_slowmo()[0][1]
    with pytest.raises(ValueError, match=r"batches \[5\]"):
        list_windows(clips, ((5, spec),))
    with pytest.raises(ValueError, match=r"span \[7, 13\]"):
        list_windows(clips, ((0, spec), (9, dataclasses.replace(spec, time_stride=2))))
