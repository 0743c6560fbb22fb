"""Writes small videos, with sound or without."""

from fractions import Fraction

import av
import numpy as np


def write_video(
    path,
    images,
    *,
    fps=Fraction(25),
    pts=None,
    has_audio=False,
    codec="libx264",
    pix_fmt="yuv420p",
    options=None,
    metadata=(),
    rotation=0,
):
    """Encodes images to a file, which is returned.

    Args:
      path: its suffix chooses the container.
      images: uint8 [N, H, W, 3].
      fps: frames per second.
      pts: presentation times in milliseconds, instead of those of `fps`.
      has_audio: adds a tone of the same length.
      codec: of the picture.
      pix_fmt: of the picture.
      options: of the encoder; by default libx264 loses next to nothing.
      metadata: of the file.
      rotation: degrees, of the display matrix.
    """
    if options is None:
        options = {"crf": "1"} if codec == "libx264" else {}
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=fps, options=options)
        video.height, video.width = images[0].shape[:2]
        video.pix_fmt = pix_fmt
        video.codec_context.time_base = Fraction(1, 1000) if pts else 1 / Fraction(fps)
        if rotation:
            video.set_display_rotation(rotation)
        container.metadata.update(dict(metadata))
        audio = None
        if has_audio:
            audio = container.add_stream("aac", rate=16000)
            audio.layout = "mono"
        for i, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts = pts[i] if pts else i
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


def write_sound(
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
