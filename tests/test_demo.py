"""The page, used through its interface and in headless Chromium; needs the extra `demo_tests`."""

import contextlib
import importlib.util
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

gradio = pytest.importorskip("gradio", reason="the page is an extra")

from stvsr_jax import demo  # noqa: E402
from stvsr_jax.inference import predictor, video_reader  # noqa: E402


@pytest.fixture(scope="module")
def fakes():
    """The module tests/inference/conftest.py: networks that repeat pixels, and a writer of videos."""
    path = pathlib.Path(__file__).parent / "inference" / "conftest.py"
    spec = importlib.util.spec_from_file_location("fakes", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """Where the page's jobs have their files."""
    return tmp_path_factory.mktemp("jobs")


@pytest.fixture(scope="module")
def address(fakes, jobs):
    """Where a page is served that takes videos of a megabyte."""
    network = predictor.Predictor("videoinr", fakes.FAKES["videoinr"](), {})
    app = demo.build_app(network, jobs, max_upload=1)
    options = {"prevent_thread_lock": True, "quiet": True, "server_name": "127.0.0.1"}
    yield demo.launch(app, max_upload=1, **options)
    app.close()


@pytest.fixture
def source(fakes, tmp_path):
    images = np.full((12, 32, 48, 3), 40, np.uint8)
    for i, image in enumerate(images):
        image[i : i + 8] = 200
    return fakes._write_video(tmp_path / "in.mp4", images, has_audio=True)


def left_in(folder):
    """Return what is in a folder once the page has had a moment to tidy it."""
    for _ in range(50):
        if not list(folder.iterdir()):
            break
        time.sleep(0.1)
    return list(folder.iterdir())


def test_a_video_comes_back_enlarged_with_a_pair_to_compare(address, source, jobs):
    client = pytest.importorskip("gradio_client")
    video = {"video": client.handle_file(str(source))}
    result = client.Client(address, verbose=False).predict(video["video"], 1.5, 60, 0.4, api_name="/upscale")
    output, pair, line = result
    info = video_reader.probe(pathlib.Path(output["video"] if isinstance(output, dict) else output))
    assert (info.height, info.width, info.rate, info.frame_count) == (48, 72, 60, 24)
    assert len(pair) == 2 and "48x32 at 25 frames per second became 72x48 at 60." in line
    assert left_in(jobs) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no video", "not a video|Invalid"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n", "not a video|Invalid"),
        (bytes(1_100_000), "size|large|exceeded"),
    ],
)
def test_what_fails_is_one_line_and_leaves_nothing(address, tmp_path, jobs, content, message):
    client = pytest.importorskip("gradio_client")
    (tmp_path / "text.mp4").write_bytes(content)
    with pytest.raises(Exception, match=message) as caught:
        client.Client(address, verbose=False).predict(
            client.handle_file(str(tmp_path / "text.mp4")), 2, 0, 0, api_name="/upscale"
        )
    assert str(jobs) not in str(caught.value)
    assert left_in(jobs) == []


def test_a_job_that_fails_half_way_leaves_nothing(address, source, jobs, monkeypatch):
    client = pytest.importorskip("gradio_client")

    def fail(path, target):
        assert target.exists() and len(list(jobs.iterdir())) == 1
        raise OSError("odd")

    monkeypatch.setattr(demo, "middle_frames", fail)
    with pytest.raises(Exception, match="odd"):
        client.Client(address, verbose=False).predict(
            client.handle_file(str(source)), 2, 0, 0, api_name="/upscale"
        )
    assert left_in(jobs) == []


def test_frames_beyond_8k_are_refused(tmp_path, fakes):
    network = predictor.Predictor("videoinr", fakes.FAKES["videoinr"](), {})
    wide = fakes._write_video(tmp_path / "wide.mp4", np.zeros((2, 720, 1280, 3), np.uint8))
    with pytest.raises(ValueError, match="frames of 10240x5760 are larger than this page makes"):
        demo.upscale(
            network, wide, tmp_path / "out.mp4", space=8, fps=0, seconds=0, on_progress=lambda n, m: None
        )
    assert not (tmp_path / "out.mp4").exists()


def test_the_folder_goes_with_the_program(tmp_path):
    code = """if True:
        import sys, types
        from stvsr_jax import demo
        demo.predictor.Predictor.from_checkpoint = lambda *a, **k: types.SimpleNamespace(name="videoinr")
        demo.compilation.keep_compiled_programs = lambda: None
        sys.exit(demo.main(["--checkpoint", "x", "--port", sys.argv[1]]))
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(pathlib.Path(demo.__file__).parents[1])}
    process = subprocess.Popen([sys.executable, "-c", code, str(port)], env=env)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        assert len(list(tmp_path.glob("stvsr-demo-*/jobs"))) == 1
        time.sleep(1)
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
    assert list(tmp_path.glob("stvsr-demo-*")) == []


@pytest.mark.parametrize(
    ("flags", "message"), [(("--port", "0"), "port=0 must"), (("--max_upload", "0"), "max_upload=0 must")]
)
def test_bad_flags_are_one_line(capsys, flags, message):
    assert demo.main(["--checkpoint", "x", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line


def test_middle_frames_are_of_one_moment(source, tmp_path, fakes):
    network = predictor.Predictor("videoinr", fakes.FAKES["videoinr"](), {})
    done = []
    line = demo.upscale(
        network,
        source,
        tmp_path / "out.mp4",
        space=2,
        fps=0,
        seconds=0,
        on_progress=lambda n, m: done.append((n, m)),
    )
    assert done[0] == (0, 24) and done[-1] == (24, 24) and "became 96x64 at 50." in line
    given, output = demo.middle_frames(source, tmp_path / "out.mp4")
    assert given.shape == output.shape == (64, 96, 3)
    assert np.abs(given[:, 48, 0].astype(int) - output[:, 48, 0]).mean() < 12  # two repeats against bicubic


@pytest.mark.skipif(not shutil.which("chromium") or not shutil.which("chromedriver"), reason="no Chromium")
def test_the_page_works_in_a_browser(address, source, tmp_path):
    pytest.importorskip("selenium")
    from selenium import webdriver
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1280,1400",
        f"--user-data-dir={tmp_path / 'profile'}",
    ):
        options.add_argument(flag)
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    browser = webdriver.Chrome(options=options, service=service)
    try:
        browser.get(address)
        wait = WebDriverWait(browser, 60)
        upload = wait.until(lambda b: b.find_element(By.CSS_SELECTOR, "input[type=file]"))
        upload.send_keys(str(source))
        wait.until(lambda b: b.find_elements(By.CSS_SELECTOR, "video"))
        button = next(b for b in browser.find_elements(By.TAG_NAME, "button") if b.text == "Enlarge")
        button.click()
        wait.until(lambda b: len(b.find_elements(By.CSS_SELECTOR, "video")) == 2)
        wait.until(lambda b: "became 192x128 at 50" in text_of(b))
        assert browser.find_elements(By.CSS_SELECTOR, "a[download]")
        slider = wait.until(
            lambda b: b.find_element(By.CSS_SELECTOR, "[aria-label*='slider' i], .slider-wrap")
        )
        assert slider.is_displayed()
        time.sleep(1)  # pictures are drawn
        browser.save_screenshot(str(tmp_path / "page.png"))
    finally:
        browser.quit()


def text_of(browser):
    from selenium.webdriver.common.by import By

    boxes = browser.find_elements(By.CSS_SELECTOR, "textarea")
    return " ".join(box.get_attribute("value") or "" for box in boxes)
