"""The page: upload a video, see what it will take, enlarge it or stop, compare any frame, download.

One video is worked on at a time; others wait. Uploads, results and what failed jobs leave lie in one temporary
folder: a job's own files go when it ends, uploads and downloads after a few hours, the folder with the program.
"""

import pathlib

import gradio as gr

from stvsr_jax.demo import jobs
from stvsr_jax.demo.handlers import ALL, FIRST, FREE_RATE, RATES, Handlers
from stvsr_jax.inference.request import DEFAULT_SPACE

MAX_UPLOAD = 500  # megabytes
# Jobs that may wait.
_MAX_WAITING = 16
# Seconds after which uploads and results that were shown are deleted, and how often that is looked after.
_KEEP = 3 * 3600
_CLEAN_EVERY = 600


def build_app(networks: jobs.Networks, folder: pathlib.Path, *, max_upload: int = MAX_UPLOAD) -> gr.Blocks:
    """Returns the page.

    Args:
      networks: on offer.
      folder: holds the files of the job at work.
      max_upload: megabytes of a video.
    """
    handlers = Handlers(networks, folder, max_upload)
    with gr.Blocks(title="stvsr_jax", analytics_enabled=False, delete_cache=(_CLEAN_EVERY, _KEEP)) as app:
        gr.Markdown(
            f"# Space-time video super-resolution\nVideos of up to {max_upload} MB; results are kept for "
            f"{_KEEP // 3600} hours."
        )
        with gr.Row():
            with gr.Column():
                video = gr.Video(label="Video", sources=["upload"], height=300)
                with gr.Row():
                    for name in handlers.examples:
                        example = gr.Button(f"Example: {name}", size="sm")
                        example.click(
                            lambda name=name: (yield from handlers.take(name)), None, video, api_name=False
                        )
                default = networks.choices[0]
                weights = gr.Dropdown(networks.choices, value=default, label="Weights", filterable=False)
                space = gr.Slider(1, 8, DEFAULT_SPACE, step=0.1, label="Enlargement")
                rate = gr.Radio([*RATES, FREE_RATE], value="twice as many", label="Frames")
                fps = gr.Number(60, label="Frames per second", visible=False)
                part = gr.Radio([ALL, FIRST], value=FIRST, label="Part of the video")
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
        rate.change(lambda rate: gr.Number(visible=rate == FREE_RATE), rate, fps, **quick)
        part.change(lambda part: gr.Number(visible=part == FIRST), part, seconds, **quick)
        weights.change(handlers.follow, weights, space, **quick)
        app.load(handlers.follow, weights, space, **quick)
        for field in fields:
            field.change(handlers.preview, fields, facts, **quick)
        one_at_a_time = {"concurrency_limit": 1, "concurrency_id": "network"}
        timing.click(handlers.estimate, fields, facts, api_name="estimate", **one_at_a_time)
        started = button.click(handlers.begin, None, [button, stopper], **quick)
        made = [facts, result, frame, pair, kind]
        ran = started.then(
            handlers.run, fields, made, api_name="upscale", show_progress_on=result, **one_at_a_time
        )
        ran.then(handlers.end, None, [button, stopper], **quick)
        stopper.click(handlers.stop, None, None, **quick)
        app.unload(handlers.stop)
        frame.release(handlers.show, [video, result, frame], [pair, kind], api_name="compare")
    return app


def launch(app: gr.Blocks, *, max_upload: int = MAX_UPLOAD, **options) -> str:
    """Serves the page; `options` are Gradio's. Returns its address, at once with `prevent_thread_lock=True`."""
    app.queue(max_size=_MAX_WAITING)
    return app.launch(share=False, max_file_size=round(1e6 * max_upload), **options)[1]
