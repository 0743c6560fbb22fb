"""The page, used through its interface and in headless Chromium; needs the extra `demo_tests`."""

import importlib.util
import pathlib
import shutil
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
def address(fakes, tmp_path_factory):
    """Where a page is served."""
    network = predictor.Predictor("videoinr", fakes.FAKES["videoinr"](), {})
    app = demo.build_app(network, tmp_path_factory.mktemp("outputs"))
    _, url, _ = app.queue().launch(prevent_thread_lock=True, quiet=True, share=False, server_name="127.0.0.1")
    yield url
    app.close()


@pytest.fixture
def source(fakes, tmp_path):
    images = np.full((12, 32, 48, 3), 40, np.uint8)
    for i, image in enumerate(images):
        image[i : i + 8] = 200
    return fakes._write_video(tmp_path / "in.mp4", images, has_audio=True)


def test_a_video_comes_back_enlarged_with_a_pair_to_compare(address, source):
    client = pytest.importorskip("gradio_client")
    video = {"video": client.handle_file(str(source))}
    result = client.Client(address, verbose=False).predict(video["video"], 1.5, 60, 0.4, api_name="/upscale")
    output, pair, line = result
    info = video_reader.probe(pathlib.Path(output["video"] if isinstance(output, dict) else output))
    assert (info.height, info.width, info.rate, info.frame_count) == (48, 72, 60, 24)
    assert len(pair) == 2 and "48x32 at 25 frames per second became 72x48 at 60." in line


def test_errors_are_shown_in_one_line(address, tmp_path):
    client = pytest.importorskip("gradio_client")
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(Exception, match="not a video|Invalid"):
        client.Client(address, verbose=False).predict(
            client.handle_file(str(tmp_path / "text.mp4")), 2, 0, 0, api_name="/upscale"
        )


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
