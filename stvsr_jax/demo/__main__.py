"""Serves a page in the browser: upload a video, choose scale and frame rate, watch progress, compare, download.

    pip install 'stvsr-jax[demo]'
    python -m stvsr_jax.demo

It serves this machine only, unless `--host 0.0.0.0` says otherwise.
"""

import argparse
import os
import pathlib
import signal
import sys
import tempfile
from collections.abc import Sequence

from stvsr_jax.demo import jobs, page
from stvsr_jax.runtime import compilation


def _interrupt(number, frame):
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Serves the page until it is interrupted; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m stvsr_jax.demo", allow_abbrev=False)
    parser.add_argument(
        "--checkpoint",
        metavar="WEIGHTS",
        help="weights besides those that ship: a training run, converted weights, or hf://USER/REPO",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to serve; default: this machine only")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument(
        "--max_upload", type=int, default=page.MAX_UPLOAD, help="megabytes of a video (default: 500)"
    )
    args = parser.parse_args(argv)
    try:
        if not 0 < args.port < 65536:
            raise ValueError(f"port={args.port} must be from 1 to 65535")
        if args.max_upload < 1:
            raise ValueError(f"max_upload={args.max_upload} must be at least 1")
        compilation.keep_compiled_programs()
        networks = jobs.Networks(args.checkpoint)
    except page.ERRORS as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _interrupt)  # so that the folder is deleted
    with tempfile.TemporaryDirectory(prefix="stvsr-demo-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = os.path.join(folder, "cache")
        own = pathlib.Path(folder, "jobs")
        own.mkdir()
        app = page.build_app(networks, own, max_upload=args.max_upload)
        try:
            page.launch(app, max_upload=args.max_upload, server_name=args.host, server_port=args.port)
        except KeyboardInterrupt:
            pass
        except OSError as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
