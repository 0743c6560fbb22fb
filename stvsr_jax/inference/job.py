"""Carries out a plan so that it can be stopped at any time and gone on with.

The output is made in segments that begin and end with windows of the network. Going on reads the input again from
its beginning, which finds the same scenes and the same windows, and computes only those that are not in a
finished segment; so the result is that of a run that was never stopped.

Its stages overlap: reading, the network, converting its pictures, encoding and storing. The main thread passes the
pictures on, in order.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from PIL import Image

import stvsr_jax
from stvsr_jax import models, stages
from stvsr_jax.files import fit_name
from stvsr_jax.inference import (
    compare,
    host_memory,
    pipeline,
    planes,
    predictor,
    saving,
    tile_size,
    work_folder,
)
from stvsr_jax.inference.pipeline import Output
from stvsr_jax.inference.request import Plan, check_outputs
from stvsr_jax.video import encoding, packet_store, segment_encoder, sequential_reader, writers
from stvsr_jax.video.output_file import OutputFile

# Windows that are read ahead.
_READ_AHEAD = 4
# Threads that convert pictures, for each device.
_CONVERTERS = 4
# Calls under way on a device that is not a CPU, whose results take at most so many bytes.
_CALLS = 3
_CALL_BYTES = 2**28


class Stopped(Exception):
    """The job was asked to stop; its work waits to be gone on with.

    Attributes:
      partial: a playable file or folder of what is done.
    """

    def __init__(self, partial: pathlib.Path):
        super().__init__(f"stopped; so far there is {partial}; the same command goes on from there")
        self.partial = partial


def open_files(plan: Plan) -> list[OutputFile | pathlib.Path]:
    """Checks that the outputs can be written and returns them: video, or folder of pictures; comparison video.

    Raises:
      ValueError: one cannot be written.
    """
    request, info = plan.request, plan.info
    check_outputs(request)
    is_trimmed = request.max_frames is not None or request.preview is not None
    end = plan.output_frames / plan.video.rate if is_trimmed else None
    if request.makes_pictures:
        files = [request.output]
    else:
        source = None if info.stream_index is None else request.input
        files = [
            OutputFile(
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
        files.append(OutputFile(request.compare, wide))
    return files


def notes_on(files: list[OutputFile | pathlib.Path]) -> list[str]:
    """Returns remarks on what the output cannot hold, one line each."""
    return [note for file in files if isinstance(file, OutputFile) for note in file.notes]


def run(
    plan: Plan,
    network: predictor.Predictor,
    files: list[OutputFile | pathlib.Path | None],
    *,
    on_progress: Callable[[int, bool], None] = lambda done, is_new: None,
    should_stop: Callable[[], bool] = lambda: False,
    timers: stages.Timers | None = None,
) -> list[str]:
    """Makes the output, or goes on making it.

    Args:
      plan: from `make_plan`.
      network: of the model that the plan was made for.
      files: from `open_files`; None for frames that are to be forgotten.
      on_progress: called with how many output frames are done and whether this run did them.
      should_stop: asked after every window.
      timers: that the stages are added to.

    Returns:
      Notes on what is not as was planned, one line each.

    Raises:
      Stopped: `should_stop` said so.
      ValueError: the output cannot be written or is being written by another process.
      OSError: reading or writing failed (a full disk, say); the finished segments wait to be gone on with.
    """
    request = plan.request
    timers = timers or stages.Timers()
    folder = work_folder.WorkFolder(request.output, identify(plan, network), overwrite=request.overwrite)
    with contextlib.ExitStack() as stack:
        stack.callback(folder.close)
        progress = folder.progress or {"outputs": 0, "is_complete": False, "marks": [None] * len(files)}
        network.tile = progress.get("tile", request.tile)  # what has been begun with a tile keeps it
        batch = progress.get("batch", choose_batch(plan, network))
        sinks = []
        for number, file in enumerate(files):
            sinks.append(_open_sink(plan, file, folder.path, number, progress["marks"][number], timers))
            stack.callback(sinks[-1].writer.close)
        on_progress(progress["outputs"], False)
        if not progress["is_complete"]:
            _render(plan, network, batch, folder, progress, sinks, on_progress, should_stop, timers)
        if request.compare and _is_picture(request.compare):
            _save_picture(plan, network)
        notes = [note for sink in sinks for note in sink.writer.finish()]
        folder.save({**folder.progress, "is_finished": True})
        folder.remove()
    return notes


def windows_of(plan: Plan, network: predictor.Predictor):
    """Streams the windows of a plan."""
    request = plan.request
    frames = sequential_reader.read_frames(
        plan.info, limit=request.max_frames, seconds=request.preview, decoder=request.decoder
    )
    return pipeline.plan(
        frames,
        window_size=network.window_size,
        time=plan.time or 1,
        fps=plan.fps,
        keep_earlier=models.contract_of(network.name).keeps_earlier,
        scene_threshold=request.scene_threshold,
    )


def predict_with(
    plan: Plan, network: predictor.Predictor, layout: planes.Layout | None = None
) -> pipeline.Predict:
    """Returns the network at the plan's size; `layout` is of planes that it makes if it can."""
    settings = settings_of(plan, layout)
    return lambda frames, times, device: network.predict_windows(frames, times, device=device, **settings)


def predict_one_with(
    plan: Plan, network: predictor.Predictor, layout: planes.Layout | None = None
) -> pipeline.Predict:
    """Returns what `predict_with` returns for one window, in the program that the job has for several."""
    batch, predict = choose_batch(plan, network), predict_with(plan, network, layout)

    def predict_one(frames, times, device):
        return predict(frames.repeat(batch, axis=0), list(times) * batch, device)[:1]

    return predict_one


def settings_of(plan: Plan, layout: planes.Layout | None) -> dict[str, Any]:
    """Returns what `Predictor.predict_windows` is told besides frames, times and device."""
    return {"out_size": plan.out_size, "instants": _instants(plan), "layout": layout}


def layout_of(plan: Plan, platform: str) -> planes.Layout | None:
    """Returns the planes that are all the job needs; None if it needs RGB: for pictures, comparisons, RGB codecs.

    On a CPU, too: FFmpeg's converter takes half the time there.
    """
    compare_video = plan.request.compare and not _is_picture(plan.request.compare)
    if platform == "cpu" or compare_video or plan.request.makes_pictures:
        return None
    return plan.video.layout


def _instants(plan):
    """Returns how many outputs an input frame usually has."""
    return plan.time or math.ceil(plan.fps / plan.info.rate)


def identify(plan: Plan, network: predictor.Predictor) -> dict[str, Any]:
    """Returns everything that the output depends on, as JSON data by the name of the setting."""
    request = plan.request
    settings = {
        key: value if isinstance(value, (bool, int, type(None))) else str(value)
        for key, value in dataclasses.asdict(request).items()
        if key not in ("overwrite", "input", "output", "as_pictures", "decoder")
    }
    files = plan.info.pictures or (request.input,)
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return {
        **settings,
        "input": str(request.input.resolve()),
        "input's content": hashlib.sha256(json.dumps(facts).encode()).hexdigest(),
        "network": network.identity,
        "dtype": network.dtype,
        "segment": plan.segment,
        "encoder": encoding.encoder_options(plan.video),  # segments of different ones do not fit one header
        "version": stvsr_jax.__version__,
        "packets": packet_store.VERSION,
    }


def choose_batch(plan: Plan, network: predictor.Predictor) -> int:
    """Returns how many windows go to a device together."""
    if plan.request.batch is not None:
        return plan.request.batch
    platform = network.devices[0].platform
    return tile_size.choose_batch(network.window_size, plan.info.height, plan.info.width, platform)


def _render(plan, network, batch, folder, progress, sinks, on_progress, should_stop, timers):
    count = safe = progress["outputs"]
    with contextlib.ExitStack() as stack:
        prepared = stack.enter_context(
            contextlib.closing(_prepare(plan, network, batch, sinks, count, timers))
        )
        saver = stack.enter_context(saving.Saver(folder, sinks, network, batch, count, timers.add("store")))
        for output, is_last_of_window, pictures in prepared:
            for sink, picture in zip(sinks, pictures, strict=True):
                sink.writer.write(picture, output.frame.time, output.frame.duration)
            count += 1
            if not is_last_of_window:
                continue
            on_progress(count, True)
            if count - safe >= plan.segment:
                saver.save(count)
                safe = count
            if should_stop():
                prepared.close()
                saver.wait()
                folder.save(folder.progress or progress)  # the partial output stays with it
                for sink in sinks:
                    sink.writer.store(sink.writer.cut())
                raise Stopped([sink.writer.finish_partial() for sink in sinks][0])
        saver.save(count, is_complete=True)
        saver.wait()


def _prepare(plan, network, batch, sinks, done, timers) -> Iterator[tuple[Output, bool, list[Any]]]:
    """Yields the outputs that are not done, whether each is the last of its window, and what each sink writes of it."""
    on_cpu = network.devices[0].platform == "cpu"
    height, width = plan.out_size
    outputs = batch * (network.window_size - 1) * _instants(plan)
    call_bytes = outputs * height * width * 3 * (2 if plan.video.is_deep else 1)
    calls = 1 if on_cpu else max(2, min(_CALLS, _CALL_BYTES // call_bytes))
    devices = len(network.devices)
    converters = min(_CONVERTERS * devices, stages.count_cores())
    # In the order of the work.
    read, run, convert = timers.add("read"), timers.add("network", devices), timers.add("convert", converters)

    def prepare(item):
        number, output, is_last = item
        return output, is_last, [sink.writer.prepare(sink.choose(output), number) for sink in sinks]

    with contextlib.ExitStack() as stack:
        windows = stages.read_ahead(
            windows_of(plan, network), _READ_AHEAD * devices, read, count=lambda window: len(window.outputs)
        )
        stack.callback(windows.close)
        groups = pipeline.group(windows, size=batch, skip=done)
        rendered = pipeline.render(
            groups,
            predict_with(plan, network, layout_of(plan, network.devices[0].platform)),
            size=batch,
            devices=devices,
            calls=calls,
            timer=run,
        )
        stack.callback(rendered.close)
        yield from stages.map_ahead(
            prepare, _number(rendered, done), workers=converters, ahead=2 * converters, timer=convert
        )


def _number(rendered: Iterable[list[Output]], first: int) -> Iterator[tuple[int, Output, bool]]:
    """Yields (number, output, whether it is the last of its window)."""
    for outputs in rendered:
        for place, output in enumerate(outputs, 1):
            yield first, output, place == len(outputs)
            first += 1


def _is_picture(path):
    return path.suffix.lower() == ".png"


def _open_sink(plan, file, folder, number, mark, timers):
    if file is None:
        writer = writers.NullWriter(plan.video)
    elif isinstance(file, pathlib.Path):
        writer = writers.PictureWriter(file, folder / "pictures", mark)
    else:
        memory = host_memory.available_memory()
        side_by_side = segment_encoder.choose_workers(file.video, plan.segment, memory=memory)
        writer = writers.VideoWriter(
            file,
            folder / f"{number}.packets",
            mark,
            side_by_side=side_by_side,
            segment=plan.segment,
            timer=timers.add("compare" if number else "encode", side_by_side),
        )
    if number:  # the first is the output, the second the comparison
        return saving.Sink(writer, lambda o: compare.side_by_side(o.frame.image, o.source.image, "output"))
    return saving.Sink(writer, lambda output: output.frame.image)


def _save_picture(plan, network):
    middle = plan.input_frames / plan.info.rate / 2
    picture = compare.picture_of_two_moments(
        windows_of(plan, network), predict_one_with(plan, network), middle
    )
    partial = fit_name(plan.request.compare.with_name(f".{plan.request.compare.stem}"), ".partial.png")
    Image.fromarray(picture).save(partial)
    partial.replace(plan.request.compare)
