"""A page in the browser: upload a video, choose scale and frame rate, watch progress, compare, download.

    pip install 'stvsr-jax[demo]'
    python -m stvsr_jax.demo --checkpoint DIR

It serves this machine only, unless `--host 0.0.0.0` says otherwise. One video is worked on at a time; others wait.
"""

import argparse
import pathlib
import sys
import tempfile
import uuid
from collections.abc import Callable, Sequence
from fractions import Fraction

import av
import gradio as gr
import jax
import numpy as np

from stvsr_jax import compilation
from stvsr_jax.data import colour
from stvsr_jax.inference import compare, job, predictor, video_reader
from stvsr_jax.inference.request import DEFAULT_SPACE, DEFAULT_TIME, Request, make_plan

_ERRORS = (ValueError, NotImplementedError, OSError, av.FFmpegError, jax.errors.JaxRuntimeError)


def upscale(
    network: predictor.Predictor,
    source: pathlib.Path,
    target: pathlib.Path,
    *,
    space: float,
    fps: float,
    seconds: float,
    on_progress: Callable[[int, int], None],
) -> str:
    """Makes a video.

    Args:
      network: of the checkpoint.
      source: the input.
      target: the output, an MP4 file.
      space: enlargement.
      fps: output frames per second; 0 is twice the input's.
      seconds: use only the first seconds of the input; 0 uses all.
      on_progress: called with how many output frames are done, and of how many.

    Returns:
      One line on what was made.

    Raises:
      ValueError: the input cannot be read, or the network cannot do that.
    """
    request = Request(
        source,
        target,
        space=space,
        time=None if fps else DEFAULT_TIME,
        fps=Fraction(str(fps)).limit_denominator(1001) if fps else None,
        preview=Fraction(str(seconds)) if seconds else None,
    )
    plan = make_plan(request, network.name)
    files = job.open_files(plan)
    late = job.run(
        plan, network, files, on_progress=lambda done, is_new: on_progress(done, plan.output_frames)
    )
    height, width = plan.video.encoded_size
    line = f"{plan.info.width}x{plan.info.height} at {float(plan.info.rate):.5g} frames per second became "
    line += f"{width}x{height} at {float(plan.video.rate):.5g}."
    return " ".join([line, *(f"Note: {note}." for note in (*plan.remarks, *job.notes_on(files), *late))])


def middle_frames(source: pathlib.Path, target: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns the output's frame in the middle of it, and before it the input's, enlarged bicubically.

    Both are uint8 [H', W', 3].
    """
    info = video_reader.probe(target)
    output = _frame_at(info, info.frame_count / info.rate / 2)
    given = _frame_at(video_reader.probe(source), output.time)
    return compare.enlarge(colour.to_8_bits(given.image), output.image.shape[:2]), output.image


def _frame_at(info, time):
    """Returns the frame that is shown at a time; the last if it is over by then."""
    for frame in video_reader.read_frames(info):
        if frame.time + frame.duration > time:
            break
    return frame


def build_app(network: predictor.Predictor, folder: pathlib.Path) -> gr.Blocks:
    """Returns the page; outputs are written to `folder`."""
    is_free = network.name == "videoinr"

    def run(video, space, fps, seconds, progress=gr.Progress()):  # noqa: B008 - Gradio looks for this default
        if not video:
            raise gr.Error("Choose a video first.")
        source = pathlib.Path(video)
        target = folder / f"{source.stem}-{uuid.uuid4().hex[:8]}.mp4"
        progress(0, desc="reading and compiling")
        try:
            line = upscale(
                network,
                source,
                target,
                space=space,
                fps=fps or 0,
                seconds=seconds or 0,
                on_progress=lambda done, total: progress((done, total), desc="frames", unit="frames"),
            )
            return str(target), middle_frames(source, target), line
        except _ERRORS as error:
            raise gr.Error(" ".join(str(error).split())) from error

    with gr.Blocks(title="stvsr_jax", analytics_enabled=False, delete_cache=(3600, 24 * 3600)) as app:
        gr.Markdown(f"# Space-time video super-resolution\nNetwork: {network.name}")
        with gr.Row():
            with gr.Column():
                video = gr.Video(label="Video", sources=["upload"])
                space = gr.Slider(1, 8, DEFAULT_SPACE, step=0.1, label="Enlargement", interactive=is_free)
                fps = gr.Number(0, minimum=0, label="Frames per second (0: twice those of the input)")
                seconds = gr.Number(0, minimum=0, label="Only the first seconds (0: all)")
                button = gr.Button("Enlarge", variant="primary")
            with gr.Column():
                result = gr.Video(label="Result", buttons=["download"])
                slider = gr.ImageSlider(label="Bicubic | network, a frame from the middle")
                line = gr.Textbox(label="What was made", interactive=False)
        button.click(
            run, [video, space, fps, seconds], [result, slider, line], concurrency_limit=1, api_name="upscale"
        )
    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Serves the page until it is interrupted; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m stvsr_jax.demo", allow_abbrev=False)
    parser.add_argument("--checkpoint", type=pathlib.Path, required=True, help="folder of a model")
    parser.add_argument("--host", default="127.0.0.1", help="address to serve; default: this machine only")
    parser.add_argument("--port", type=int, default=7860)
    args = parser.parse_args(argv)
    try:
        compilation.keep_compiled_programs()
        network = predictor.Predictor.from_checkpoint(args.checkpoint, devices=jax.local_devices())
    except _ERRORS as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="stvsr-demo-") as folder:
        app = build_app(network, pathlib.Path(folder))
        try:
            app.queue().launch(server_name=args.host, server_port=args.port, share=False)
        except OSError as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
