"""What happens when something on the page is clicked or changed."""

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

ERRORS = (ValueError, NotImplementedError, OSError, av.FFmpegError, jax.errors.JaxRuntimeError)

RATES = {"the same": 1, "twice as many": 2, "four times as many": 4}
FREE_RATE = "frames per second:"
ALL, FIRST = "all of it", "the first seconds:"


class Handlers:
    """What the page does when something is clicked or changed. Its methods are called by Gradio, with fields' values.

    Attributes:
      examples: name -> video.
    """

    def __init__(self, networks: jobs.Networks, folder: pathlib.Path, max_upload: int):
        self._networks, self._folder, self._max_upload = networks, folder, max_upload
        self._stops: dict[str | None, threading.Event] = {}  # by session: whether its job is to end
        self.examples = jobs.find_examples()

    def preview(self, video, *fields):
        """Says what would be done, as soon as that is known; what is wrong is said there, too."""
        if not video:
            return ""
        try:
            wish = _read(*fields)
            planned = jobs.plan(self._networks, wish, pathlib.Path(video), self._folder / "out.mp4")
            return jobs.describe(self._networks, wish, planned)
        except ERRORS as error:
            return _one_line(error, pathlib.Path(video))

    def estimate(self, video, *fields):
        """Returns what would be done, and how long it takes, measured."""
        with _job_files(video, self._folder, self._max_upload) as (source, output), _shown(source):
            wish = _read(*fields)
            planned = jobs.plan(self._networks, wish, source, output)
            return f"{jobs.describe(self._networks, wish, planned)}\n{jobs.measure(self._networks, wish, planned)}"

    def begin(self, request: gr.Request):
        """Enables the button that stops; before `run`."""
        self._stops[request.session_hash] = threading.Event()
        return gr.Button(interactive=False), gr.Button(interactive=True)

    def stop(self, request: gr.Request):
        """Ends the session's job after its current windows."""
        if request.session_hash in self._stops:
            self._stops[request.session_hash].set()

    def end(self):
        """Enables the button that begins; after `run`."""
        return gr.Button(interactive=True), gr.Button(interactive=False)

    def run(
        self,
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
        """Enlarges; yields the text, the result, and a frame of it to compare."""
        fields = weights, space, rate, fps, part, seconds
        stopped = self._stops.setdefault(request.session_hash, threading.Event())
        try:
            yield from self._work(video, fields, stopped, progress)
        finally:
            self._stops.pop(request.session_hash, None)

    def _work(self, video, fields, stopped, progress) -> Iterator[tuple]:
        nothing = (gr.skip(),) * 4
        with _job_files(video, self._folder, self._max_upload) as (source, output), _shown(source):
            wish = _read(*fields)
            planned = jobs.plan(self._networks, wish, source, output)
            text = jobs.describe(self._networks, wish, planned)
            if stopped.is_set():
                yield f"{text}\nStopped.", *nothing
                return
            progress(0, desc="compiling, and timing two windows")
            text += f"\n{jobs.measure(self._networks, wish, planned)}"
            yield text, *nothing
            try:
                line = jobs.run(
                    self._networks,
                    wish,
                    planned,
                    on_progress=lambda done, total: progress((done, total), desc="frames", unit="frames"),
                    should_stop=stopped.is_set,
                )
            except job.Stopped:
                yield f"{text}\nStopped.", *nothing
                return
            count = jobs.count_frames(output)
            number = count // 2 | 1 if count > 1 else 0  # an interpolated one, where frames are doubled
            left, right, kind = jobs.pair_at(source, output, number)
            frame = gr.Slider(1, count, number + 1, step=1, interactive=count > 1)
            # Gradio copies what is yielded before it asks for more, and only then is the folder deleted.
            yield f"{text}\n{line}", str(output), frame, (left, right), kind

    def show(self, video, result, number):
        """Returns a frame of the result beside the input's, and what kind of frame it is."""
        if not video or not result:
            return gr.skip(), gr.skip()
        with _shown(pathlib.Path(video)):
            left, right, kind = jobs.pair_at(pathlib.Path(video), pathlib.Path(result), int(number) - 1)
            return (left, right), kind

    def take(self, name):
        """Yields a copy of an example."""
        copy = pathlib.Path(tempfile.mkdtemp(dir=self._folder), name)
        shutil.copyfile(self.examples[name], copy)
        try:
            yield str(copy)  # copied by Gradio
        finally:
            shutil.rmtree(copy.parent)

    def follow(self, weights):
        """Fixes the enlargement if the network has only one."""
        is_chosen = weights != jobs.AUTOMATIC
        scale = models.contract_of(self._networks.name_of(weights)).scale if is_chosen else None
        return gr.Slider(interactive=True) if scale is None else gr.Slider(value=scale, interactive=False)


def _read(weights, space, rate, fps, part, seconds):
    """Returns the wish that the fields stand for."""
    is_free = rate == FREE_RATE
    for name, value in (
        ("frames per second", fps if is_free else 1),
        ("seconds", seconds if part == FIRST else 1),
    ):
        if value is None or value <= 0:
            raise ValueError(f"the {name} have to be given, above 0")
    return jobs.Wish(
        weights,
        space,
        time=None if is_free else RATES[rate],
        fps=fps if is_free else None,
        seconds=seconds if part == FIRST else None,
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
