"""Carries out a plan so that it can be stopped at any time and gone on with.

The output is made in segments that begin and end with windows of the network. Going on reads the input again from
its beginning, which finds the same scenes and the same windows, and computes only those that are not in a
finished segment; so the result is that of a run that was never stopped.
"""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable
from typing import Any

from PIL import Image

import stvsr_jax
from stvsr_jax import models
from stvsr_jax.inference import (
    compare,
    packet_store,
    pipeline,
    predictor,
    video_reader,
    video_writer,
    work_folder,
)
from stvsr_jax.inference.pipeline import Output
from stvsr_jax.inference.request import Plan, check_targets
from stvsr_jax.inference.video_assembly import VideoFile


class Stopped(Exception):
    """The job was asked to stop; its work waits to be gone on with.

    Attributes:
      partial: a playable file or folder of what is done.
    """

    def __init__(self, partial: pathlib.Path):
        super().__init__(f"stopped; so far there is {partial}; the same command goes on from there")
        self.partial = partial


@dataclasses.dataclass(frozen=True)
class _Sink:
    """A writer and what it is given of an output."""

    writer: Any
    add: Callable[[Output], None]


def open_files(plan: Plan) -> list[VideoFile | pathlib.Path]:
    """Checks that the outputs can be written and returns them: video, or folder of pictures; comparison video.

    Raises:
      ValueError: one cannot be written.
    """
    request, info = plan.request, plan.info
    check_targets(request)
    is_trimmed = request.max_frames is not None or request.preview is not None
    end = plan.output_frames / plan.video.rate if is_trimmed else None
    if request.makes_pictures:
        files = [request.output]
    else:
        source = None if info.stream_index is None else request.input
        files = [
            VideoFile(
                request.output,
                plan.video,
                source=source,
                origin=info.origin,
                shifts=info.timeline.shifts,
                end=end,
            )
        ]
    if request.compare and not _is_picture(request.compare):
        wide = dataclasses.replace(plan.video, width=2 * plan.video.width, is_deep=False, pixel_format=None)
        files.append(VideoFile(request.compare, wide))
    return files


def notes_on(files: list[VideoFile | pathlib.Path]) -> list[str]:
    """Returns remarks on what the output cannot hold, one line each."""
    return [note for file in files if isinstance(file, VideoFile) for note in file.notes]


def run(
    plan: Plan,
    network: predictor.Predictor,
    files: list[VideoFile | pathlib.Path],
    *,
    on_progress: Callable[[int, bool], None] = lambda done, is_new: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[str]:
    """Makes the output, or goes on making it.

    Args:
      plan: from `make_plan`.
      network: of the model that the plan was made for.
      files: from `open_files`.
      on_progress: called with how many output frames are done and whether this run did them.
      should_stop: asked after every window.

    Returns:
      Notes on what is not as was planned, one line each.

    Raises:
      Stopped: `should_stop` said so.
      ValueError: the output cannot be written or is being written by another process.
      OSError: reading or writing failed (a full disk, say); the finished segments wait to be gone on with.
    """
    request = plan.request
    folder = work_folder.WorkFolder(request.output, identify(plan, network), overwrite=request.overwrite)
    with contextlib.ExitStack() as stack:
        stack.callback(folder.close)
        progress = folder.progress or {"outputs": 0, "is_complete": False, "marks": [None] * len(files)}
        network.tile = progress.get("tile", request.tile)  # what has been begun with a tile keeps it
        sinks = []
        for number, file in enumerate(files):
            sinks.append(_open_sink(file, folder.path, number, progress["marks"][number]))
            stack.callback(sinks[-1].writer.close)
        on_progress(progress["outputs"], False)
        if not progress["is_complete"]:
            _render(plan, network, folder, progress, sinks, on_progress, should_stop)
        if request.compare and _is_picture(request.compare):
            _save_picture(plan, network)
        notes = [note for sink in sinks for note in sink.writer.finish()]
        folder.save({**folder.progress, "is_finished": True})
        folder.remove()
    return notes


def windows_of(plan: Plan, network: predictor.Predictor):
    """Streams the windows of a plan."""
    request = plan.request
    frames = video_reader.read_frames(plan.info, limit=request.max_frames, seconds=request.preview)
    return pipeline.plan(
        frames,
        window_size=network.window_size,
        time=plan.time or 1,
        fps=plan.fps,
        keep_earlier=models.contract_of(network.name).keeps_earlier,
        scene_threshold=request.scene_threshold,
    )


def predict_with(plan: Plan, network: predictor.Predictor) -> pipeline.Predict:
    """Returns the network at the plan's size."""
    return lambda images, times, device: network.predict(images, times, out_size=plan.out_size, device=device)


def identify(plan: Plan, network: predictor.Predictor) -> dict[str, Any]:
    """Returns everything that the output depends on, as JSON data by the name of the setting."""
    request = plan.request
    settings = {
        key: value if isinstance(value, (bool, int, type(None))) else str(value)
        for key, value in dataclasses.asdict(request).items()
        if key not in ("overwrite", "input", "output", "as_pictures")
    }
    files = plan.info.pictures or (request.input,)
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return {
        **settings,
        "input": str(request.input.resolve()),
        "input's content": hashlib.sha256(json.dumps(facts).encode()).hexdigest(),
        "network": network.identity,
        "segment": plan.segment,
        "version": stvsr_jax.__version__,
        "packets": packet_store.VERSION,
    }


def _render(plan, network, folder, progress, sinks, on_progress, should_stop):
    count = safe = progress["outputs"]

    def save(is_complete):
        marks = [sink.writer.end_segment() for sink in sinks]
        folder.save({"outputs": count, "is_complete": is_complete, "marks": marks, "tile": network.tile})

    windows = pipeline.skip_outputs(windows_of(plan, network), count)
    rendered = pipeline.render(windows, predict_with(plan, network), devices=len(network.devices))
    with contextlib.closing(rendered):
        for outputs in rendered:
            for output in outputs:
                for sink in sinks:
                    sink.add(output)
            count += len(outputs)
            on_progress(count, True)
            if count - safe >= plan.segment:
                save(False)
                safe = count
            if should_stop():
                folder.save(folder.progress or progress)  # the partial output stays with it
                raise Stopped([sink.writer.finish_partial() for sink in sinks][0])
    save(True)


def _is_picture(path):
    return path.suffix.lower() == ".png"


def _open_sink(file, folder, number, mark):
    if isinstance(file, pathlib.Path):
        writer = video_writer.PictureWriter(file, folder / "pictures", mark)
    else:
        writer = video_writer.VideoWriter(file, folder / f"{number}.packets", mark)

    def add(output):
        image = output.frame.image
        if number:  # the first is the output, the second the comparison
            image = compare.side_by_side(image, output.source.image, "output")
        writer.write(image, output.frame.time, output.frame.duration)

    return _Sink(writer, add)


def _save_picture(plan, network):
    middle = plan.input_frames / plan.info.rate / 2
    picture = compare.picture_of_two_moments(windows_of(plan, network), predict_with(plan, network), middle)
    partial = work_folder.fit(plan.request.compare.with_name(f".{plan.request.compare.stem}"), ".partial.png")
    Image.fromarray(picture).save(partial)
    partial.replace(plan.request.compare)
