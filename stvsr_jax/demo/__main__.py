"""Serves a page in the browser: upload a video, choose scale and frame rate, watch progress, compare, download.

    pip install 'stvsr-jax[demo]'
    python -m stvsr_jax.demo

It serves this machine only, unless `--host 0.0.0.0` says otherwise.
"""

import argparse
import contextlib
import os
import pathlib
import sys
import tempfile
from collections.abc import Sequence

from stvsr_jax import command_line
from stvsr_jax.demo import jobs, page
from stvsr_jax.parsers.demo import make_parser
from stvsr_jax.runtime import compilation


def run(args: argparse.Namespace) -> None:
    """Serves the page until it is interrupted, which is how it ends."""
    if not 0 < args.port < 65536:
        raise ValueError(f"port={args.port} must be from 1 to 65535")
    if args.max_upload < 1:
        raise ValueError(f"max_upload={args.max_upload} must be at least 1")
    compilation.keep_compiled_programs()
    networks = jobs.Networks(args.checkpoint)
    with (
        contextlib.suppress(KeyboardInterrupt),
        tempfile.TemporaryDirectory(prefix="stvsr-demo-") as folder,
    ):
        os.environ["GRADIO_TEMP_DIR"] = os.path.join(folder, "cache")
        own = pathlib.Path(folder, "jobs")
        own.mkdir()
        app = page.build_app(networks, own, max_upload=args.max_upload)
        page.launch(app, max_upload=args.max_upload, server_name=args.host, server_port=args.port)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    return command_line.run(make_parser("python -m stvsr_jax.demo"), run, argv)


if __name__ == "__main__":
    sys.exit(main())
