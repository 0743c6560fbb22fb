"""The page, used through its interface and in headless Chromium; needs the extra `demo_tests`."""

import pathlib
import shutil
import threading
import time

import pytest

gradio = pytest.importorskip("gradio", reason="the page is an extra")

from stvsr_jax.demo import jobs, page  # noqa: E402
from stvsr_jax.video import sequential_reader  # noqa: E402
from tests.limits import HANG  # noqa: E402


class FakeNetworks:
    """The interface of `jobs.Networks`, of networks whose output is known."""

    choices = [jobs.AUTOMATIC, "video", "videoinr"]

    def __init__(self, predictors):
        self._predictors = predictors

    def choose(self, wish):
        if wish.weights != jobs.AUTOMATIC:
            return wish.weights
        return "video" if wish.space == 4 and wish.time in (1, 2) else "videoinr"

    def name_of(self, source):
        return "videoinr" if source == "videoinr" else "zooming_slowmo"

    def load(self, source):
        return self._predictors[self.name_of(source)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return where the page's jobs have their files."""
    return tmp_path_factory.mktemp("jobs")


@pytest.fixture(scope="module")
def address(fake_predictors, folder):
    """Return where a page is served that takes videos of a megabyte."""
    app = page.build_app(FakeNetworks(fake_predictors), folder, max_upload=1)
    options = {"prevent_thread_lock": True, "quiet": True, "server_name": "127.0.0.1"}
    yield page.launch(app, max_upload=1, **options)
    app.close()


@pytest.fixture
def client(address):
    """Return a function that calls the page: call(name, *arguments)."""
    gradio_client = pytest.importorskip("gradio_client")
    connected = gradio_client.Client(address, verbose=False)

    def call(name, *arguments):
        given = [gradio_client.handle_file(str(a)) if isinstance(a, pathlib.Path) else a for a in arguments]
        return connected.predict(*given, api_name=f"/{name}")

    return call


def left_in(folder):
    """Return what is in a folder once the page has had a moment to tidy it."""
    for _ in range(50):
        if not list(folder.iterdir()):
            break
        time.sleep(0.1)
    return list(folder.iterdir())


def path_of(video):
    return pathlib.Path(video["video"] if isinstance(video, dict) else video)


FREE = ("videoinr", 1.5, "frames per second:", 60, "the first seconds:", 0.4)
USUAL = (jobs.AUTOMATIC, 4, "twice as many", 60, "all of it", 1)


def test_a_video_comes_back_enlarged_with_a_pair_to_compare(client, source, folder):
    facts, output, frame, pair, kind = client("upscale", source, *FREE)
    info = sequential_reader.probe(path_of(output))
    assert (info.height, info.width, info.rate, info.frame_count) == (48, 72, 60, 24)
    assert len(pair) == 2 and "interpolated" in kind
    assert facts.splitlines()[0] == "weights: videoinr" and "memory: about" in facts
    assert facts.splitlines()[-1].startswith("48x32 at 25 frames per second became 72x48 at 60.")
    assert left_in(folder) == []


def test_any_frame_can_be_compared(client, source):
    _, output, *_ = client("upscale", source, *USUAL)
    for number, expected in ((1, "0.000 s: input frame 1, enlarged"), (4, "0.060 s: interpolated, 0.50 of")):
        pair, kind = client("compare", source, path_of(output), number)
        assert len(pair) == 2 and kind.startswith(expected)


def test_time_and_memory_are_said_before(client, source, folder):
    text = client("estimate", source, *USUAL)
    assert text.startswith("weights: video\ninput: in.mp4, 48x32") and "time: " in text and "memory: " in text
    assert left_in(folder) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no video", "not a video|Invalid"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n", "not a video|Invalid"),
        (bytes(1_100_000), "size|large|exceeded"),
    ],
)
def test_what_fails_is_one_line_and_leaves_nothing(client, tmp_path, folder, content, message):
    (tmp_path / "text.mp4").write_bytes(content)
    with pytest.raises(Exception, match=message) as caught:
        client("upscale", tmp_path / "text.mp4", *USUAL)
    assert str(folder) not in str(caught.value)
    assert left_in(folder) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (("video", 2, *USUAL[2:]), "zooming_slowmo enlarges 4 times only"),
        ((*USUAL[:4], "the first seconds:", 0), "the seconds have to be given, above 0"),
        (("hf://user/repo", *USUAL[1:]), "not in the list of choices"),
    ],
)
def test_fields_that_do_not_fit_are_named(client, source, folder, fields, message):
    with pytest.raises(Exception, match=message):
        client("upscale", source, *fields)
    assert left_in(folder) == []


def test_a_job_that_fails_half_way_leaves_nothing(client, source, folder, monkeypatch):
    def fail(path, target, number):
        assert target.exists() and len(list(folder.iterdir())) == 1
        raise OSError("odd")

    monkeypatch.setattr(jobs, "pair_at", fail)
    with pytest.raises(Exception, match="odd"):
        client("upscale", source, *USUAL)
    assert left_in(folder) == []


@pytest.fixture
def browser(tmp_path):
    """Return a headless Chromium."""
    if not shutil.which("chromium") or not shutil.which("chromedriver"):
        pytest.skip("no Chromium")
    pytest.importorskip("selenium")
    from selenium import webdriver

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
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.save_screenshot(str(tmp_path / "page.png"))
    driver.quit()


def press(browser, text):
    from selenium.webdriver.common.by import By

    next(b for b in browser.find_elements(By.TAG_NAME, "button") if b.text == text).click()


def text_of(browser):
    from selenium.webdriver.common.by import By

    boxes = browser.find_elements(By.CSS_SELECTOR, "textarea")
    return " ".join(box.get_attribute("value") or "" for box in boxes)


def open_with(browser, address, source):
    """Opens the page and uploads a video; returns a function that waits for a condition."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(address)
    wait = WebDriverWait(browser, 60)
    upload = wait.until(lambda b: b.find_element(By.CSS_SELECTOR, "input[type=file]"))
    upload.send_keys(str(source))
    wait.until(lambda b: b.find_elements(By.CSS_SELECTOR, "video"))
    return wait.until


def test_the_page_works_in_a_browser(address, source, browser):
    from selenium.webdriver.common.by import By

    wait = open_with(browser, address, source)
    wait(lambda b: "output: 192x128, 50 frames/s, 24 frames" in text_of(b))  # before anything is pressed
    press(browser, "Enlarge")
    wait(lambda b: len(b.find_elements(By.CSS_SELECTOR, "video")) == 2)
    wait(lambda b: "became 192x128 at 50" in text_of(b) and "interpolated, 0.50" in text_of(b))
    assert browser.find_elements(By.CSS_SELECTOR, "a[download]")
    slider = wait(lambda b: b.find_element(By.CSS_SELECTOR, "[aria-label*='slider' i], .slider-wrap"))
    assert slider.is_displayed()
    time.sleep(1)  # pictures are drawn


@pytest.mark.parametrize("how", ["button", "closing"])
def test_a_job_is_stopped_by_the_button_and_by_closing_the_page(
    address, source, browser, folder, monkeypatch, how
):
    started, ended, real = threading.Event(), threading.Event(), jobs.run

    def run(*args, should_stop, **kwargs):
        started.set()
        for _ in range(600):
            if should_stop():
                ended.set()
                break
            time.sleep(0.05)
        return real(*args, should_stop=should_stop, **kwargs)

    monkeypatch.setattr(jobs, "run", run)
    wait = open_with(browser, address, source)
    wait(lambda b: "output: " in text_of(b))
    press(browser, "Enlarge")
    assert started.wait(HANG)
    wait(lambda b: "memory: " in text_of(b))  # said before the work begins
    if how == "button":
        press(browser, "Stop")
        wait(lambda b: "Stopped." in text_of(b))
    else:
        browser.get("about:blank")
    assert ended.wait(HANG)
    assert left_in(folder) == []
