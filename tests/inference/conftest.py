"""Small videos with sound, and networks whose output is known: nearest x scale in space, blends in time."""

import pathlib
import sys
import types
from fractions import Fraction
from typing import Any

import av
import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

import stvsr_jax
from stvsr_jax import models
from stvsr_jax.models.contract import choose_instants


class NearestZoomingSlowMo(nn.Module):
    """The signatures of ZoomingSlowMo."""

    dtype: Any = jnp.float32

    def encode(self, frames):
        between = (frames[:, 1:] + frames[:, :-1]) / 2
        steps = [
            frames[:, i // 2] if i % 2 == 0 else between[:, i // 2] for i in range(2 * frames.shape[1] - 1)
        ]
        return jnp.stack(steps, 1).repeat(4, axis=2).repeat(4, axis=3)

    def decode(self, encoded, times, *, out_size, chunk_rows=None, grid=None):
        return choose_instants(encoded, times)


class NearestVideoINR(nn.Module):
    """The signatures of VideoINR."""

    dtype: Any = jnp.float32

    def encode(self, frames):
        return frames

    def decode(self, encoded, times, *, out_size, chunk_rows=None, grid=None):
        height, width = encoded.shape[2:4]
        rows = jnp.floor((jnp.arange(out_size[0]) + 0.5) * height / out_size[0]).astype(int)
        columns = jnp.floor((jnp.arange(out_size[1]) + 0.5) * width / out_size[1]).astype(int)
        weight = times[:, :, None, None, None]
        blend = encoded[:, :1] * (1 - weight) + encoded[:, 1:] * weight
        return blend[:, :, rows][:, :, :, columns]


FAKES = {"zooming_slowmo": NearestZoomingSlowMo, "videoinr": NearestVideoINR}


@pytest.fixture
def fake_models():
    return {name: fake() for name, fake in FAKES.items()}


@pytest.fixture
def checkpoints(tmp_path, monkeypatch):
    """Makes the command line find fake networks in folders named after the models: {name: folder}."""

    def load_for_inference(directory, **kwargs):
        return types.SimpleNamespace(model_name=pathlib.Path(directory).name, model_kwargs={}, params={})

    module = types.ModuleType("stvsr_jax.checkpoint")
    module.load_for_inference = load_for_inference
    monkeypatch.setitem(sys.modules, "stvsr_jax.checkpoint", module)
    monkeypatch.setattr(stvsr_jax, "checkpoint", module, raising=False)
    monkeypatch.setattr(models, "build", lambda name, **kwargs: FAKES[name](**kwargs))
    folders = {name: tmp_path / "checkpoints" / name for name in FAKES}
    for folder in folders.values():
        folder.mkdir(parents=True)
    return folders


@pytest.fixture(scope="session")
def write_video():
    """Returns write(path, images, fps=, stamps=, has_audio=, codec=, metadata=, rotation=)."""
    return _write_video


def _write_video(
    path, images, *, fps=Fraction(25), stamps=None, has_audio=False, codec="libx264", metadata=(), rotation=0
):
    """Encodes uint8 [H, W, 3] images without loss worth mentioning; `stamps` are milliseconds."""
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=fps, options={"crf": "1"} if codec == "libx264" else {})
        video.height, video.width = images[0].shape[:2]
        video.pix_fmt = "yuv420p"
        video.codec_context.time_base = Fraction(1, 1000) if stamps else 1 / Fraction(fps)
        if rotation:
            video.set_display_rotation(rotation)
        container.metadata.update(dict(metadata))
        audio = None
        if has_audio:
            audio = container.add_stream("aac", rate=16000)
            audio.layout = "mono"
        for i, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts = stamps[i] if stamps else i
            frame.time_base = video.codec_context.time_base
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None:
            count = int(len(images) / fps * 16000)
            tone = (8000 * np.sin(np.arange(count) * 2 * np.pi * 440 / 16000)).astype(np.int16)
            for start in range(0, count, 1024):
                sound = av.AudioFrame.from_ndarray(
                    tone[None, start : start + 1024], format="s16", layout="mono"
                )
                sound.sample_rate, sound.pts, sound.time_base = 16000, start, Fraction(1, 16000)
                container.mux(audio.encode(sound))
            container.mux(audio.encode(None))
    return path


@pytest.fixture
def write_sound():
    """Returns write(path, *, codec=, layout=, rate=, seconds=, edit=): a small video with a tone of 440 Hz."""
    return _write_sound


def _write_sound(
    path,
    *,
    codec="aac",
    layout="stereo",
    rate=48000,
    seconds=1,
    picture="mpeg4",
    edit=lambda packets: packets,
):
    """Writes 25 frames of 32x48 pixels a second and a tone of the same length.

    Args:
      path: its suffix chooses the container.
      codec: encoder of the sound, None for none.
      layout: of its channels.
      rate: samples per second.
      seconds: whole number.
      picture: encoder of the picture.
      edit: given the sound's packets in order, returns those to write.
    """
    with av.open(str(path), "w") as container:
        video = container.add_stream(picture, rate=25)
        video.height, video.width, video.pix_fmt = 32, 48, "yuv420p"
        streams, packets = [video], []
        if codec:
            audio = container.add_stream(codec, rate=rate)
            audio.codec_context.layout = layout
            audio.codec_context.options, audio.codec_context.bit_rate = {"strict": "-2"}, 192000
            streams.append(audio)
        container.start_encoding()
        for n in range(25 * seconds):
            frame = av.VideoFrame.from_ndarray(
                np.full((32, 48, 3), 40 + 4 * (n % 25), np.uint8), format="rgb24"
            )
            frame.pts = n
            packets += [(video, packet) for packet in video.encode(frame)]
        packets += [(video, packet) for packet in video.encode(None)]
        if codec:
            packets += [(audio, packet) for packet in edit(list(_encode_tone(audio, rate, seconds)))]
        for stream, packet in sorted(packets, key=lambda p: p[1].dts * p[1].time_base):
            packet.stream = stream
            container.mux(packet)
    return path


def _encode_tone(audio, rate, seconds):
    count = audio.codec_context.layout.nb_channels
    tone = (8000 * np.sin(np.arange(rate * seconds) * 2 * np.pi * 440 / rate)).astype(np.int16)
    for start in range(0, len(tone), 1024):
        piece = tone[start : start + 1024].repeat(count)[None]
        frame = av.AudioFrame.from_ndarray(piece, format="s16", layout=audio.codec_context.layout.name)
        frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
        yield from audio.encode(frame)
    yield from audio.encode(None)
