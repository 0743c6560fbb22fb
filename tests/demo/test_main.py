"""Serving the page; needs the extra `demo`."""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys
import time

import pytest

pytest.importorskip("gradio", reason="the page is an extra")

import stvsr_jax  # noqa: E402
from stvsr_jax.demo.__main__ import main  # noqa: E402
from tests.limits import HANG  # noqa: E402


def test_the_folder_goes_with_the_program(tmp_path):
    code = """if True:
        import sys
        from stvsr_jax.demo import __main__, jobs
        from stvsr_jax.weights import shipped
        shipped.list_names = lambda: ["videoinr"]
        jobs.Networks.name_of = lambda self, source: "videoinr"
        __main__.compilation.keep_compiled_programs = lambda: None
        sys.exit(__main__.main(["--port", sys.argv[1]]))
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = os.environ | {
        "TMPDIR": str(tmp_path),
        "PYTHONPATH": str(pathlib.Path(stvsr_jax.__file__).parents[1]),
    }
    process = subprocess.Popen([sys.executable, "-c", code, str(port)], env=env)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        assert len(list(tmp_path.glob("stvsr-demo-*/jobs"))) == 1
        time.sleep(1)
        process.terminate()
        assert process.wait(HANG) == 0
    finally:
        process.kill()
    assert list(tmp_path.glob("stvsr-demo-*")) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "0"], "port=0"),
        (["--max_upload", "0"], "max_upload=0"),
        (["--checkpoint", "no_such_folder"], "no such file or folder"),
        ([], "there are no weights in this package"),
    ],
)
def test_what_is_wrong_is_one_line(shipped, arguments, message, capsys):
    shipped()
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
