"""Opening what is measured."""

import pytest

from stvsr_jax.evaluation import methods
from stvsr_jax.evaluation.protocols import PROTOCOLS


def test_checkpoint_is_known_by_its_weights(save_checkpoint):
    paths = [save_checkpoint("videoinr"), save_checkpoint("videoinr", seed=1)]
    opened = [methods.open_method(str(path)) for path in paths]
    assert [method.name for method in opened] == ["videoinr", "videoinr"]
    assert opened[0].facts["digest"] != opened[1].facts["digest"]
    assert methods.open_method(str(paths[0])).facts == opened[0].facts
    assert opened[0].facts["dtype"] == "float32" and opened[0].facts["step"] == 0


def test_weights_that_ship_are_opened_by_name(shipped):
    shipped("video", "videoinr")
    video, videoinr = methods.open_method("video"), methods.open_method("videoinr")
    assert (video.name, video.facts["step"], video.window_size) == ("zooming_slowmo", 7, 4)
    assert video.facts["set"] == "video"
    assert (videoinr.name, videoinr.facts["fields"]["hidden"]) == ("videoinr", [8, 8, 8])


def test_what_a_network_cannot_do_is_named(save_checkpoint):
    zsm = methods.open_method(str(save_checkpoint("zooming_slowmo")))
    for name in ("zsm", "full", "center", "middle", "v3_center"):
        zsm.check(PROTOCOLS[name])
    with pytest.raises(
        ValueError, match="average scores instants at 1/8 .* zooming_slowmo renders multiples of 1/2"
    ):
        zsm.check(PROTOCOLS["average"])
    with pytest.raises(ValueError, match="zooming_slowmo enlarges 4 times only"):
        zsm.check(PROTOCOLS["grid_t6_s6"])


def test_videoinr_and_baselines_can_do_everything(save_checkpoint):
    for model in (str(save_checkpoint("videoinr")), "bicubic_blend"):
        method = methods.open_method(model)
        for protocol in PROTOCOLS.values():
            method.check(protocol)


def test_unknown_model_is_named():
    with pytest.raises(
        ValueError, match="model 'bicubic' is neither one of bicubic_blend, .*, nor weights: .* no such set"
    ):
        methods.open_method("bicubic")
