"""The page: upload a video, see what it will take, enlarge it or stop, compare any frame, download.

One video is worked on at a time; others wait. Uploads, results and what failed jobs leave lie in one temporary
folder: a job's own files go when it ends, uploads and downloads after a few hours, the folder with the program.
"""

import contextlib
import os
import pathlib
import shutil
import tempfile
import threading
from collections.abc import Iterator

import av
import gradio as gr
import jax

from stvsr_jax import models
from stvsr_jax.demo import jobs
from stvsr_jax.inference import job
from stvsr_jax.inference.request import DEFAULT_SPACE

MAX_UPLOAD = 500  # megabytes
# Jobs that may wait.
_MAX_WAITING = 16
# Seconds after which uploads and results that were shown are deleted, and how often that is looked after.
_KEEP = 3 * 3600
_CLEAN_EVERY = 600
ERRORS = (ValueError, NotImplementedError, OSError, av.FFmpegError, jax.errors.JaxRuntimeError)

_RATES = {"the same": 1, "twice as many": 2, "four times as many": 4}
_FREE_RATE = "frames per second:"
_ALL, _FIRST = "all of it", "the first seconds:"


def build_app(networks: jobs.Networks, folder: pathlib.Path, *, max_upload: int = MAX_UPLOAD) -> gr.Blocks:
    """Returns the page.

    Args:
      networks: on offer.
      folder: holds the files of the job at work.
      max_upload: megabytes of a video.
    """
    stops: dict[str | None, threading.Event] = {}  # by session: whether its job is to end

    def preview(video, *fields):
        """Says what would be done, as soon as that is known; what is wrong is said there, too."""
        if not video:
            return ""
        try:
            wish = _read(*fields)
            planned = jobs.plan(networks, wish, pathlib.Path(video), folder / "out.mp4")
            return jobs.describe(networks, wish, planned)
        except ERRORS as error:
            return _one_line(error, pathlib.Path(video))

    def estimate(video, *fields):
        with _job_files(video, folder, max_upload) as (source, target), _shown(source):
            wish = _read(*fields)
            planned = jobs.plan(networks, wish, source, target)
            return f"{jobs.describe(networks, wish, planned)}\n{jobs.measure(networks, wish, planned)}"

    def begin(request: gr.Request):
        stops[request.session_hash] = threading.Event()
        return gr.Button(interactive=False), gr.Button(interactive=True)

    def stop(request: gr.Request):
        if request.session_hash in stops:
            stops[request.session_hash].set()

    def end():
        return gr.Button(interactive=True), gr.Button(interactive=False)

    def run(
        video,
        weights,
        space,
        rate,
        fps,
        part,
        seconds,
        request: gr.Request,
        progress=gr.Progress(),  # noqa: B008 - Gradio looks for this default
    ):
        fields = weights, space, rate, fps, part, seconds
        stopped = stops.setdefault(request.session_hash, threading.Event())
        try:
            yield from work(video, fields, stopped, progress)
        finally:
            stops.pop(request.session_hash, None)

    def work(video, fields, stopped, progress) -> Iterator[tuple]:
        nothing = (gr.skip(),) * 4
        with _job_files(video, folder, max_upload) as (source, target), _shown(source):
            wish = _read(*fields)
            planned = jobs.plan(networks, wish, source, target)
            text = jobs.describe(networks, wish, planned)
            if stopped.is_set():
                yield f"{text}\nStopped.", *nothing
                return
            progress(0, desc="compiling, and timing two windows")
            text += f"\n{jobs.measure(networks, wish, planned)}"
            yield text, *nothing
            try:
                line = jobs.run(
                    networks,
                    wish,
                    planned,
                    on_progress=lambda done, total: progress((done, total), desc="frames", unit="frames"),
                    should_stop=stopped.is_set,
                )
            except job.Stopped:
                yield f"{text}\nStopped.", *nothing
                return
            count = jobs.count_frames(target)
            number = count // 2 | 1 if count > 1 else 0  # an interpolated one, where frames are doubled
            left, right, kind = jobs.pair_at(source, target, number)
            frame = gr.Slider(1, count, number + 1, step=1, interactive=count > 1)
            # Gradio copies what is yielded before it asks for more, and only then is the folder deleted.
            yield f"{text}\n{line}", str(target), frame, (left, right), kind

    def show(video, result, number):
        if not video or not result:
            return gr.skip(), gr.skip()
        with _shown(pathlib.Path(video)):
            left, right, kind = jobs.pair_at(pathlib.Path(video), pathlib.Path(result), int(number) - 1)
            return (left, right), kind

    def take(name):
        copy = pathlib.Path(tempfile.mkdtemp(dir=folder), name)
        shutil.copyfile(examples[name], copy)
        try:
            yield str(copy)  # copied by Gradio
        finally:
            shutil.rmtree(copy.parent)

    def follow(weights):
        """Fixes the enlargement if the network has only one."""
        is_chosen = weights != jobs.AUTOMATIC
        scale = models.contract_of(networks.name_of(weights)).scale if is_chosen else None
        return gr.Slider(interactive=True) if scale is None else gr.Slider(value=scale, interactive=False)

    examples = jobs.find_examples()
    with gr.Blocks(title="stvsr_jax", analytics_enabled=False, delete_cache=(_CLEAN_EVERY, _KEEP)) as app:
        gr.Markdown(
            f"# Space-time video super-resolution\nVideos of up to {max_upload} MB; results are kept for "
            f"{_KEEP // 3600} hours."
        )
        with gr.Row():
            with gr.Column():
                video = gr.Video(label="Video", sources=["upload"], height=300)
                with gr.Row():
                    for name in examples:
                        example = gr.Button(f"Example: {name}", size="sm")
                        example.click(lambda name=name: (yield from take(name)), None, video, api_name=False)
                default = networks.choices[0]
                weights = gr.Dropdown(networks.choices, value=default, label="Weights", filterable=False)
                space = gr.Slider(1, 8, DEFAULT_SPACE, step=0.1, label="Enlargement")
                rate = gr.Radio([*_RATES, _FREE_RATE], value="twice as many", label="Frames")
                fps = gr.Number(60, label="Frames per second", visible=False)
                part = gr.Radio([_ALL, _FIRST], value=_FIRST, label="Part of the video")
                seconds = gr.Number(1, label="Seconds")
                with gr.Row():
                    timing = gr.Button("Estimate")
                    button = gr.Button("Enlarge", variant="primary")
                    stopper = gr.Button("Stop", variant="stop", interactive=False)
            with gr.Column():
                facts = gr.Textbox(label="What it takes", lines=10, interactive=False)
                result = gr.Video(label="Result", buttons=["download"], height=300, interactive=False)
                pair = gr.ImageSlider(label="Bicubic | network", interactive=False)
                frame = gr.Slider(1, 2, 1, step=1, label="Frame to compare", interactive=False)
                kind = gr.Textbox(label="This frame", interactive=False)

        fields = [video, weights, space, rate, fps, part, seconds]
        quick = {"queue": False, "show_progress": "hidden", "api_name": False}
        rate.change(lambda rate: gr.Number(visible=rate == _FREE_RATE), rate, fps, **quick)
        part.change(lambda part: gr.Number(visible=part == _FIRST), part, seconds, **quick)
        weights.change(follow, weights, space, **quick)
        app.load(follow, weights, space, **quick)
        for field in fields:
            field.change(preview, fields, facts, **quick)
        one_at_a_time = {"concurrency_limit": 1, "concurrency_id": "network"}
        timing.click(estimate, fields, facts, api_name="estimate", **one_at_a_time)
        started = button.click(begin, None, [button, stopper], **quick)
        made = [facts, result, frame, pair, kind]
        ran = started.then(run, fields, made, api_name="upscale", show_progress_on=result, **one_at_a_time)
        ran.then(end, None, [button, stopper], **quick)
        stopper.click(stop, None, None, **quick)
        app.unload(stop)
        frame.release(show, [video, result, frame], [pair, kind], api_name="compare")
    return app


def _read(weights, space, rate, fps, part, seconds):
    """Returns the wish that the fields stand for."""
    is_free = rate == _FREE_RATE
    for name, value in (
        ("frames per second", fps if is_free else 1),
        ("seconds", seconds if part == _FIRST else 1),
    ):
        if value is None or value <= 0:
            raise ValueError(f"the {name} have to be given, above 0")
    return jobs.Wish(
        weights,
        space,
        time=None if is_free else _RATES[rate],
        fps=fps if is_free else None,
        seconds=seconds if part == _FIRST else None,
    )


@contextlib.contextmanager
def _job_files(video, folder, max_upload):
    """Gives the input and the output of a job in a folder of its own, which goes with it."""
    if not video:
        raise gr.Error("Choose a video first.", print_exception=False)
    if os.path.getsize(video) > 1e6 * max_upload:  # of a file that came by its address
        raise gr.Error(f"The video has more than {max_upload} MB.", print_exception=False)
    with tempfile.TemporaryDirectory(dir=folder) as own:
        source = pathlib.Path(own, pathlib.Path(video).name)
        try:
            os.link(video, source)  # a long job must not lose its input to the cleaning
        except OSError:  # another disk, or one without links
            shutil.copyfile(video, source)
        yield source, source.with_name(f"{source.stem[:100]} enlarged.mp4")


@contextlib.contextmanager
def _shown(source):
    """Shows what goes wrong, in one line and without the folder's name."""
    try:
        yield
    except ERRORS as error:
        raise gr.Error(_one_line(error, source), print_exception=False) from error


def _one_line(error, source):
    return " ".join(str(error).split()).replace(f"{source.parent}{os.sep}", "")


def launch(app: gr.Blocks, *, max_upload: int = MAX_UPLOAD, **options) -> str:
    """Serves the page; `options` are Gradio's. Returns its address, at once with `prevent_thread_lock=True`."""
    app.queue(max_size=_MAX_WAITING)
    return app.launch(share=False, max_file_size=round(1e6 * max_upload), **options)[1]
