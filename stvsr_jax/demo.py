"""A page in the browser: upload a video, choose scale and frame rate, watch progress, compare, download.

    pip install 'stvsr-jax[demo]'
    python -m stvsr_jax.demo --checkpoint DIR

It serves this machine only, unless `--host 0.0.0.0` says otherwise. One video is worked on at a time; others wait.
Uploads, results and what failed jobs leave lie in one temporary folder: a job's own files go when it ends, uploads and
downloads after a few hours, the folder with the program.
"""

import argparse
import os
import pathlib
import shutil
import signal
import sys
import tempfile
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

# Megabytes of an upload unless --max_upload says otherwise, and pixels of an output frame: 8K.
_MAX_UPLOAD = 500
_MAX_PIXELS = 7680 * 4320
# Jobs that may wait.
_MAX_WAITING = 16
# Seconds after which uploads and results that were shown are deleted, and how often that is looked after.
_KEEP = 3 * 3600
_CLEAN_EVERY = 600
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
      ValueError: the input cannot be read, the network cannot do that, or frames would be larger than 8K.
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
    if plan.out_size[0] * plan.out_size[1] > _MAX_PIXELS:
        raise ValueError("frames of {1}x{0} are larger than this page makes (8K)".format(*plan.out_size))
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


def build_app(
    network: predictor.Predictor, folder: pathlib.Path, *, max_upload: int = _MAX_UPLOAD
) -> gr.Blocks:
    """Returns the page.

    Args:
      network: of the checkpoint.
      folder: holds the files of the job at work.
      max_upload: megabytes of a video.
    """
    is_free = network.name == "videoinr"

    def run(video, space, fps, seconds, progress=gr.Progress()):  # noqa: B008 - Gradio looks for this default
        if not video:
            raise gr.Error("Choose a video first.", print_exception=False)
        if os.path.getsize(video) > 1e6 * max_upload:  # of a file that came by its address
            raise gr.Error(f"The video has more than {max_upload} MB.", print_exception=False)
        progress(0, desc="reading and compiling")
        with tempfile.TemporaryDirectory(dir=folder) as own:
            source = pathlib.Path(own, pathlib.Path(video).name)
            _share(video, source)  # a long job must not lose its input to the cleaning
            target = source.with_name(f"{source.stem[:100]} enlarged.mp4")
            # Gradio copies what is yielded before it asks for more, and only then is the folder deleted.
            yield make(source, target, space, fps, seconds, progress)

    def make(source, target, space, fps, seconds, progress):
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
            line = " ".join(str(error).split())
            line = line.replace(f"{source.parent}{os.sep}", "")
            raise gr.Error(line, print_exception=False) from error

    with gr.Blocks(title="stvsr_jax", analytics_enabled=False, delete_cache=(_CLEAN_EVERY, _KEEP)) as app:
        gr.Markdown(
            f"# Space-time video super-resolution\nNetwork: {network.name}. Videos of up to {max_upload} MB; results "
            f"are kept for {_KEEP // 3600} hours."
        )
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


def _share(file, link):
    try:
        os.link(file, link)
    except OSError:  # another disk, or one without links
        shutil.copyfile(file, link)


def launch(app: gr.Blocks, *, max_upload: int = _MAX_UPLOAD, **options) -> str:
    """Serves the page; `options` are Gradio's. Returns its address, at once with `prevent_thread_lock=True`."""
    app.queue(max_size=_MAX_WAITING)
    return app.launch(share=False, max_file_size=round(1e6 * max_upload), **options)[1]


def _interrupt(number, frame):
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Serves the page until it is interrupted; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m stvsr_jax.demo", allow_abbrev=False)
    parser.add_argument("--checkpoint", type=pathlib.Path, required=True, help="folder of a model")
    parser.add_argument("--host", default="127.0.0.1", help="address to serve; default: this machine only")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument(
        "--max_upload", type=int, default=_MAX_UPLOAD, help="megabytes of a video (default: 500)"
    )
    args = parser.parse_args(argv)
    try:
        if not 0 < args.port < 65536:
            raise ValueError(f"port={args.port} must be from 1 to 65535")
        if args.max_upload < 1:
            raise ValueError(f"max_upload={args.max_upload} must be at least 1")
        compilation.keep_compiled_programs()
        network = predictor.Predictor.from_checkpoint(args.checkpoint, devices=jax.local_devices())
    except _ERRORS as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _interrupt)  # so that the folder is deleted
    with tempfile.TemporaryDirectory(prefix="stvsr-demo-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = os.path.join(folder, "cache")
        jobs = pathlib.Path(folder, "jobs")
        jobs.mkdir()
        app = build_app(network, jobs, max_upload=args.max_upload)
        try:
            launch(app, max_upload=args.max_upload, server_name=args.host, server_port=args.port)
        except KeyboardInterrupt:
            pass
        except OSError as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
