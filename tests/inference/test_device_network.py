"""A network in the processes of two devices, against the same network in this process; and jobs that have such processes."""

import gc
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from stvsr_jax.inference import alone, device_network, device_processes, estimate, planes, tile_size
from stvsr_jax.runtime import compilation
from tests.inference import device_fakes
from tests.inference.test_device_processes import wait_until_ended
from tests.limits import HANG
from tests.virtual_devices import environment_with

OUT_SIZE = (64, 96)
TIMES = [(0, 0.5, 1, 1.5)] * 2


@pytest.fixture(scope="module")
def processes():
    with device_processes.started(2) as started:
        yield started


@pytest.fixture
def here():
    return device_fakes.make_predictor()


@pytest.fixture
def there(processes):
    return device_network.DeviceNetwork(device_fakes.make_predictor(), processes)


def draw(seed=0, *, size=(16, 24), dtype=np.uint8, count=2):
    rng = np.random.default_rng(seed)
    return rng.integers(0, np.iinfo(dtype).max + 1, (count, 4, *size, 3), dtype)


def test_it_is_the_same_network(here, there):
    for name in ("name", "window_size", "dtype", "identity"):
        assert getattr(there, name) == getattr(here, name)
    expected = jax.local_devices()[0]
    assert [(one.platform, one.device_kind) for one in there.devices] == [
        (expected.platform, expected.device_kind)
    ] * 2
    assert there.devices[1].memory_stats() == expected.memory_stats()


def test_programs_are_kept_there(tmp_path, here):
    process = device_processes.DeviceProcess(0, os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path)})
    there = device_network.DeviceNetwork(here, [process])
    assert there.on_each(device_fakes.size_of_cache) == [compilation._CACHE_SIZE]
    device_processes.close([process])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"rounded": False},
        {"instants": 2},
        {"layout": planes.Layout(1, 8, (2, 2))},
        {"layout": planes.Layout(9, 10, (1, 2))},
        {"layout": planes.Layout(1, 12, (1, 1))},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_kind_of_result_is_equal(here, there, settings, dtype):
    frames = draw(dtype=dtype)
    expected = np.stack(here.predict_windows(frames, TIMES, out_size=OUT_SIZE, **settings))
    for device in (0, 1):
        rendered = there.predict_windows(frames, TIMES, out_size=OUT_SIZE, device=device, **settings)
        assert rendered.dtype == expected.dtype
        np.testing.assert_array_equal(rendered, expected)


def test_frames_of_floats_and_tiles_are_equal(here, there):
    frames = draw(size=(64, 96)).astype(np.float32) / 255
    for network in (here, there):
        network.tile = 64
    settings = {"out_size": (256, 384), "layout": planes.Layout(1, 8, (2, 2))}
    rendered = there.predict_windows(frames, TIMES, **settings)
    expected = here.predict_windows(frames, TIMES, **settings)
    assert rendered.shape == (2, 4, 256, 384, 3) and there.tile == here.tile == 64
    np.testing.assert_array_equal(rendered, np.stack(expected))


def test_an_ensemble_is_one_there(processes):
    here = device_fakes.make_predictor(ensemble=True)
    there = device_network.DeviceNetwork(here, processes)
    rendered = there.predict_windows(draw(), TIMES, out_size=OUT_SIZE)
    np.testing.assert_array_equal(rendered, np.stack(here.predict_windows(draw(), TIMES, out_size=OUT_SIZE)))
    assert there.identity == here.identity != device_fakes.make_predictor().identity


def test_other_number_formats_run_side_by_side(here, there):
    frames = draw()
    rendered = {}
    for dtype in ("float16", "float32", "bfloat16"):
        network = there.with_dtype(dtype)
        assert network.dtype == dtype and network.identity == here.with_dtype(dtype).identity
        rendered[dtype] = network.predict_windows(frames, TIMES, out_size=OUT_SIZE, rounded=False)
        expected = here.with_dtype(dtype).predict_windows(frames, TIMES, out_size=OUT_SIZE, rounded=False)
        np.testing.assert_array_equal(rendered[dtype], np.stack(expected))
    assert not np.array_equal(rendered["bfloat16"], rendered["float16"])


def test_results_stay_as_they_are_while_any_part_of_them_is_used(here, there):
    parts = []
    for seed in range(12):
        rendered = there.predict_windows(draw(seed), TIMES, out_size=OUT_SIZE, device=seed % 2)
        parts.append(rendered[seed % 2, 1 + seed % 3, 5:])
    for seed, part in enumerate(parts):
        expected = here.predict_windows(draw(seed), TIMES, out_size=OUT_SIZE)
        np.testing.assert_array_equal(part, expected[seed % 2][1 + seed % 3, 5:])


def test_memory_is_used_again_and_does_not_grow(there):
    memory = there._memories[0]
    sizes = []
    for seed in range(20):
        rendered = there.predict_windows(draw(seed), TIMES, out_size=OUT_SIZE)
        sizes.append(os.fstat(memory.file).st_size)
        del rendered
    gc.collect()
    assert sizes[1:] == sizes[:1] * 19 and len(memory._free) == 1


def test_pages_of_pieces_that_became_too_small_are_given_back():
    file = os.memfd_create("test")
    memory = device_network.Memory(file)

    def lend(size):
        piece = memory.take(size)
        piece.view(0, (size,), np.uint8)[...] = 1
        return memory.lend(piece, 0, (size,), np.uint8)

    def pages():
        return os.fstat(file).st_blocks * 512

    first = lend(2**20)
    assert pages() == 2**20
    second = lend(2**20)
    del first, second
    assert pages() == 2**21
    larger = lend(2**22)
    assert pages() == 2**22
    assert (lend(2**19) == 1).all() and (larger == 1).all()
    os.close(file)


def test_larger_frames_may_follow_smaller_ones(here, there):
    for size in ((16, 24), (32, 48), (16, 24), (20, 28)):
        frames = draw(size=size)
        out_size = (4 * size[0], 4 * size[1])
        rendered = there.predict_windows(frames, TIMES, out_size=out_size)
        np.testing.assert_array_equal(
            rendered, np.stack(here.predict_windows(frames, TIMES, out_size=out_size))
        )


def test_wrong_arguments_are_the_predictors_error(there):
    with pytest.raises(ValueError, match="times=.* must be multiples of 1/2"):
        there.predict_windows(draw(), [(0, 0.3)] * 2, out_size=OUT_SIZE)
    with pytest.raises(ValueError, match="frames are uint8"):
        there.predict_windows(draw()[:, :1], TIMES, out_size=OUT_SIZE)
    assert len(there._memories[0]._free) == 1  # the same piece, twice


def test_a_tile_that_was_too_large_is_halved_for_all_devices(processes, capfd):
    here = device_fakes.make_predictor(most=70)
    there = device_network.DeviceNetwork(here, processes)
    frames = draw(size=(64, 160))
    for tile, expected in ((None, 64), (128, 64), (64, 64)):
        rendered = []
        for network in (here, there):
            network.tile = tile
            rendered.append(np.stack(network.predict_windows(frames, TIMES, out_size=(256, 640))))
            assert network.tile in (expected, expected // 2)
        assert here.tile == there.tile
        np.testing.assert_array_equal(*rendered)
    assert "out of memory at tile 128" in capfd.readouterr().err  # the process says so itself
    # The other device starts with what the first has found.
    there.predict_windows(frames, TIMES, out_size=(256, 640), device=1)
    assert "out of memory" not in capfd.readouterr().err


def test_any_error_of_the_device_is_raised(processes):
    there = device_network.DeviceNetwork(device_fakes.make_predictor(most=1), processes)
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED: 24 is too much"):
        there.tile = tile_size.SMALLEST_TILE
        there.predict_windows(draw(), TIMES, out_size=OUT_SIZE)


def test_the_network_alone_is_timed_on_all_devices_at_a_time(there, here):
    settings = {"seconds": 0.1, "calls": 20, "out_size": OUT_SIZE}
    rates = there.on_each(alone.calls_per_second, draw(), TIMES, **settings)
    assert len(rates) == 2 and min(rates) > 0


def test_an_estimate_counts_the_memory_of_all_processes(there, here, monkeypatch):
    def read(network):
        return int(estimate._describe_memory(0, network).split()[1])

    mine = read(here)
    peaks = [peak / 2**20 for peak in there.on_each(estimate._peak_host_bytes)]
    assert len(peaks) == 2 and min(peaks) > 50
    assert read(there) == pytest.approx(mine + sum(peaks), rel=0.1)
    monkeypatch.setattr(
        device_network.RemoteDevice, "memory_stats", lambda self: {"peak_bytes_in_use": 7 * 2**20}
    )
    assert estimate._describe_memory(0, there).endswith(", 7 MiB on the device")


# Whole commands.

SOURCE_COUNT = 40


@pytest.fixture(scope="module")
def source(tmp_path_factory, write_video):
    """A video of moving noise with a cut in its middle, and sound."""
    rng = np.random.default_rng(0)
    scenes = rng.integers(0, 256, (2, 8, 12, 3), np.uint8).repeat(4, 1).repeat(4, 2)
    images = np.stack([np.roll(scenes[i * 2 // SOURCE_COUNT], i, axis=1) for i in range(SOURCE_COUNT)])
    return write_video(tmp_path_factory.mktemp("in") / "in.mp4", images, has_audio=True)


def start(count, source, output, *flags, devices=1, seconds=0.05):
    """Starts the command line with so many processes (0: none), or so many devices of its own."""
    root = pathlib.Path(__file__).parents[2]
    paths = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [
            sys.executable,
            device_fakes.__file__,
            str(count),
            source,
            output,
            "--segment",
            "16",
            *map(str, flags),
        ],
        env=environment_with(devices) | {"PYTHONPATH": paths, device_fakes.SLOW: str(seconds)},
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    _, errors = process.communicate(timeout=HANG)
    return process.returncode, errors


def children_of(parent):
    found = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[1]) == parent.pid:
            found.append(int(folder.name))
    return sorted(found)


def wait_for(process, output, count):
    """Waits until `count` outputs are safe; returns the processes of the devices."""
    file = output.with_name(f"{output.name}.unfinished") / "progress.json"
    while process.poll() is None:
        if file.exists() and (json.loads(file.read_text())["progress"] or {}).get("outputs", 0) >= count:
            return children_of(process)
        time.sleep(0.005)
    raise AssertionError(f"ended too early: {process.stderr.read()}")


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    """The output of one device of the command's own process."""
    output = tmp_path_factory.mktemp("whole") / "out.mp4"
    code, errors = finish(start(0, source, output, seconds=0))
    assert code == 0, errors
    return output


def test_threads_and_processes_do_not_show_in_the_file(tmp_path, source, whole):
    for name, count, devices in (("threads", 0, 2), ("processes", 2, 1)):
        output = tmp_path / f"{name}.mp4"
        code, errors = finish(start(count, source, output, devices=devices, seconds=0))
        assert code == 0, errors
        assert output.read_bytes() == whole.read_bytes(), name


def test_what_one_device_began_others_go_on_with_and_the_other_way_round(tmp_path, source, whole):
    for first, second in ((0, 2), (2, 0)):
        output = tmp_path / f"{first}.mp4"
        process = start(first, source, output)
        children = wait_for(process, output, 32)
        assert len(children) == first
        process.kill()
        finish(process)
        wait_until_ended(*children)
        code, errors = finish(start(second, source, output))
        assert code == 0, errors
        assert output.read_bytes() == whole.read_bytes()


def test_a_killed_process_ends_the_job_with_one_line_and_it_goes_on_later(tmp_path, source, whole):
    output = tmp_path / "out.mp4"
    process = start(2, source, output)
    children = wait_for(process, output, 16)
    os.kill(children[1], signal.SIGKILL)
    began = time.monotonic()
    code, errors = finish(process)
    (line,) = (line for line in errors.splitlines() if line.startswith("error: "))
    assert code == 1 and "the process of GPU 1 was ended by SIGKILL" in line and "goes on from there" in line
    assert time.monotonic() - began < 30 and "Traceback" not in errors
    wait_until_ended(*children)
    code, errors = finish(start(2, source, output))
    assert code == 0 and output.read_bytes() == whole.read_bytes(), errors


@pytest.mark.parametrize(
    ("number", "count", "expected"), [("SIGINT", 1, 130), ("SIGINT", 2, 130), ("SIGTERM", 1, 143)]
)
def test_a_stop_ends_all_processes(tmp_path, source, whole, number, count, expected):
    output = tmp_path / "out.mp4"
    process = start(2, source, output)
    children = wait_for(process, output, 16)
    for _ in range(count):
        process.send_signal(getattr(signal, number))
        time.sleep(0.01)
    code, errors = finish(process)
    assert code == expected and "the same command goes on" in errors and "Traceback" not in errors
    assert len(children) == 2 and not output.exists()
    wait_until_ended(*children)
    code, errors = finish(start(2, source, output))
    assert code == 0 and output.read_bytes() == whole.read_bytes(), errors


@pytest.mark.parametrize(
    ("number", "delay"),
    [(signal.SIGINT, 0.5), (signal.SIGTERM, 0.05), (signal.SIGTERM, 1.0), (signal.SIGKILL, 0.2)],
)
def test_a_start_that_is_stopped_leaves_no_process(tmp_path, source, number, delay):
    process = start(2, source, tmp_path / "out.mp4")
    while not (children := children_of(process)) and process.poll() is None:
        time.sleep(0.005)
    time.sleep(delay)
    children = {*children, *children_of(process)}
    process.send_signal(number)
    assert finish(process)[0] in (-number, 128 + number)
    wait_until_ended(*children)


def test_a_wrong_request_and_an_estimate_leave_no_process(tmp_path, source):
    code, errors = finish(start(2, tmp_path / "none.mp4", tmp_path / "out.mp4"))
    assert code == 2 and "does not exist" in errors
    process = start(2, source, "--info")
    code, errors = finish(process)
    assert code == 0, errors
