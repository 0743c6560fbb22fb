"""Clips made of photographs: a background and cut-out layers in front of it, each on a smooth path of its own.

For training when there are photographs and little video. Every frame is exact, so targets between two frames need
no camera: occlusion, rotation, zoom, exposure blur and large displacements are all there, what photographs lack
(deformation, water, faces that speak) is not. A scene is a function of the seed and its number, and a read draws
only the crop that is asked for. Coordinates here are (x, y) in pixels of the frame, as OpenCV has them.
"""

import dataclasses
import functools
import math
import os
from collections.abc import Sequence

import numpy as np

from stvsr_jax.data import clip
from stvsr_jax.data.photos import load_photos, open_photo

# Photographs are enlarged this many times and then averaged over a pixel of the frame, once for all frames. Bilinear
# samples of that are as sharp as a camera's pixels, and equally sharp wherever they fall between those of the
# photograph: cubic samples of the photograph itself flicker.
_ENLARGE = 2
# Moments of an exposure that are averaged in a scene with motion blur.
_EXPOSURES = 3
# Pixels of a photograph beyond those a crop maps to that its enlarging and averaging read.
_MARGIN = 6


def open_moving_layers(
    folder: str | os.PathLike,
    *,
    cache_dir: str | os.PathLike | None = None,
    count: int = 20_000,
    num_frames: int = 31,
    size: tuple[int, int] = (360, 640),
    speed: tuple[float, float] = (1.0, 1.0),
    seed: int = 0,
    faults: list[str] | None = None,
) -> list["MovingLayers"]:
    """Opens `count` scenes made of the photographs in a folder.

    Args:
      folder: of photographs; see `photos.load_photos`.
      cache_dir: where decoded photographs are kept.
      count: of scenes.
      num_frames: of a scene.
      size: (height, width) of a frame in pixels.
      speed: range of a factor of all motion, drawn per scene evenly in its logarithm; at 1 layers move up to 14
        pixels a frame.
      seed: of all scenes.
      faults: see `photos.load_photos`.

    Raises:
      ImportError: OpenCV is not installed.
      FileNotFoundError, ValueError: see `photos.load_photos`; an option is out of range.
    """
    _import_cv2()
    if count < 1 or num_frames < 2 or min(size) < 16:
        raise ValueError(f"count={count}, num_frames={num_frames}, size={size} must be at least 1, 2, 16x16")
    if len(speed) != 2 or not 0 < speed[0] <= speed[1]:
        raise ValueError(f"speed={speed} must be a (low, high) range above 0")
    height, width = size
    photos = load_photos(folder, cache_dir=cache_dir, min_side=max(size) // 3, faults=faults)
    shared = {"photos": photos, "num_frames": num_frames, "height": height, "width": width}
    return [
        MovingLayers(name=f"layers {seed}/{number}", seed=seed, number=number, speed=tuple(speed), **shared)
        for number in range(count)
    ]


@dataclasses.dataclass(frozen=True, slots=True)
class MovingLayers:
    """One scene; see `clip.Clip`."""

    name: str
    photos: tuple[str, ...] = dataclasses.field(repr=False)
    seed: int
    number: int
    speed: tuple[float, float]
    num_frames: int
    height: int
    width: int

    @property
    def scenes(self) -> tuple[tuple[int, int], ...]:
        return ((0, self.num_frames),)

    def read(self, indices: Sequence[int], crop: tuple[int, int, int, int] | None = None) -> np.ndarray:
        """Returns frames as uint8 [N, h, w, 3] RGB, in the order of `indices`; see `clip.Clip`."""
        clip.check_read(self, indices, crop)
        scene = _draw_scene(self)
        numbers = sorted(set(indices))
        frames = scene.draw(numbers, crop or (0, 0, self.height, self.width))
        return frames[np.searchsorted(numbers, indices)]


@dataclasses.dataclass(frozen=True)
class Motion:
    """A path: a slow swing, a rotation about the layer's centre and a zoom.

    Attributes:
      start: (x, y) of the centre in the frame at time 0.
      velocity: (x, y) in pixels a frame at time 0.
      frequency: of the swing in radians a frame.
      phase: of the swing.
      turn: degrees a frame.
      zoom: logarithm of the growth a frame.
    """

    start: np.ndarray
    velocity: np.ndarray
    frequency: float
    phase: float
    turn: float
    zoom: float

    def centre(self, t: float) -> np.ndarray:
        """Returns the (x, y) of the layer's centre at time t."""
        swing = math.sin(self.frequency * t + self.phase) - math.sin(self.phase)
        return self.start + self.velocity * swing / self.frequency

    def to_layer(self, t: float, centre: np.ndarray) -> np.ndarray:
        """Returns the affine map [2, 3] from the frame to the layer's own pixels, whose centre is `centre`."""
        angle, scale = math.radians(self.turn * t), math.exp(-self.zoom * t)
        cosine, sine = math.cos(angle) * scale, math.sin(angle) * scale
        inverse = np.array([[cosine, sine], [-sine, cosine]])
        return np.hstack([inverse, (centre - inverse @ self.centre(t))[:, None]])


@dataclasses.dataclass(frozen=True)
class Layer:
    """A photograph and where it is.

    Attributes:
      pixels: uint8 [h, w, 3], possibly a memory map.
      scale: pixels of the frame per pixel of the photograph.
      motion: its path.
      mask: float32 [h, w] in [0, 1], what of it is there; None for all of it, mirrored beyond its borders.
      reach: pixels of the frame from its centre to the farthest one that is there; grows with the zoom.
    """

    pixels: np.ndarray
    scale: float
    motion: Motion
    mask: np.ndarray | None = None
    reach: float = math.inf


@dataclasses.dataclass(frozen=True)
class Scene:
    """Layers from back to front.

    Attributes:
      layers: the first one covers the frame.
      moments: times within a frame that are averaged, in frames.
      middle: the frame at time 0.
    """

    layers: tuple[Layer, ...]
    moments: tuple[float, ...]
    middle: float

    def draw(self, numbers: Sequence[int], crop: tuple[int, int, int, int]) -> np.ndarray:
        """Draws frames within (top, left, height, width), uint8 [N, height, width, 3]."""
        times = [n - self.middle + moment for n in numbers for moment in self.moments]
        images = [None] * len(times)
        for layer in self.layers:
            _compose(images, layer, times, crop)
        exposures = np.stack(images).reshape(len(numbers), len(self.moments), *images[0].shape)
        return np.clip(exposures.mean(axis=1) + 0.5, 0, 255).astype(np.uint8)


@functools.cache
def _import_cv2():
    """Returns OpenCV, made to use one thread: samples are made by many threads and processes at once already."""
    try:
        import cv2
    except ImportError as error:
        raise ImportError(
            "moving layers need OpenCV; run: pip install 'stvsr-jax[layers]' (opencv-python-headless)"
        ) from error
    cv2.setNumThreads(1)
    return cv2


def _compose(images, layer, times, crop):
    """Puts a layer in front of `images`, float32 [h, w, 3] of each time; behind the first layer there is None."""
    cv2 = _import_cv2()
    top, left, height, width = crop
    size = (width, height)
    is_background = layer.mask is None
    shown = [i for i, t in enumerate(times) if is_background or _touches(layer, t, crop)]
    if not shown:
        return
    centre = np.array([layer.pixels.shape[1], layer.pixels.shape[0]]) * layer.scale / 2
    maps = {}
    for i in shown:
        matrix = layer.motion.to_layer(times[i], centre) / layer.scale  # to pixels of the photograph
        # Centres of pixels are whole numbers in the crop and in the photograph, and corners are in the layer.
        matrix[:, 2] += matrix[:, :2] @ [left + 0.5, top + 0.5] - 0.5
        maps[i] = matrix
    (x0, x1), (y0, y1) = _needed(list(maps.values()), size, layer.pixels.shape)
    part = _prepare(layer.pixels[y0:y1, x0:x1], layer.scale)
    for i, matrix in maps.items():
        matrix[:, 2] -= (x0, y0)
        area = slice(0, height), slice(0, width)
        if not is_background:
            flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            mask = cv2.warpAffine(layer.mask[y0:y1, x0:x1], matrix, size, flags=flags)
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            if not len(rows):
                continue
            # Only the rectangle that the layer covers is drawn.
            area = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        front = _warp(part, matrix, area)
        if is_background:
            images[i] = front.astype(np.float32)
        else:
            images[i][area] += mask[area][..., None] * (front - images[i][area])


def _warp(part, matrix, area):
    """Samples a prepared photograph, uint8 [h, w, 3], at the pixels (rows, columns) of `area`."""
    cv2 = _import_cv2()
    rows, columns = area
    # From pixels of the area to those of the enlarged photograph, of which each covers 1 / _ENLARGE of one.
    offset = matrix[:, :2] @ [columns.start, rows.start] + matrix[:, 2]
    matrix = np.hstack([matrix[:, :2], offset[:, None]]) * _ENLARGE
    matrix[:, 2] += (_ENLARGE - 1) / 2
    size = (int(columns.stop - columns.start), int(rows.stop - rows.start))
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(part, matrix, size, flags=flags, borderMode=cv2.BORDER_REFLECT)


def _prepare(part, scale):
    """Enlarges a part of a photograph and averages it over squares of the size of a frame's pixel."""
    cv2 = _import_cv2()
    height, width = part.shape[:2]
    size = (_ENLARGE * width, _ENLARGE * height)
    part = cv2.resize(np.ascontiguousarray(part), size, interpolation=cv2.INTER_CUBIC)
    reach = (_ENLARGE / scale - 1) / 2  # on each side of the middle tap
    if reach <= 0:
        return part
    whole = math.ceil(reach)
    taps = np.ones(2 * whole + 1)
    taps[0] = taps[-1] = reach - whole + 1
    return cv2.sepFilter2D(part, -1, taps / taps.sum(), taps / taps.sum(), borderType=cv2.BORDER_REFLECT)


def _touches(layer, t, crop):
    """Whether a layer may reach into the crop."""
    top, left, height, width = crop
    reach = layer.reach * math.exp(layer.motion.zoom * t)
    x, y = layer.motion.centre(t)
    return left - reach <= x <= left + width + reach and top - reach <= y <= top + height + reach


def _needed(matrices, size, shape):
    """Returns the ranges of x and y of a photograph that outputs of `size` (w, h) map to, mirrored ones too."""
    w, h = size
    corners = np.array([[0, w, 0, w], [0, 0, h, h], [1, 1, 1, 1]])
    mapped = np.concatenate([matrix @ corners for matrix in matrices], axis=1)  # [2, 4 each]
    ranges = []
    for values, length in zip(mapped, (shape[1], shape[0]), strict=True):
        low, high = math.floor(values.min()) - _MARGIN, math.ceil(values.max()) + _MARGIN
        # What lies beyond a border is read mirrored, so the pixels it mirrors belong to the range.
        high = max(high, -low) if low < 0 else high
        low = min(low, 2 * (length - 1) - high) if high > length - 1 else low
        low, high = max(low, 0), min(high + 1, length)
        ranges.append((low, high) if high - low > 1 else (0, length))
    return ranges


@functools.lru_cache(maxsize=64)
def _draw_scene(clip: MovingLayers) -> Scene:
    """Draws all that is random about a scene."""
    rng = np.random.default_rng((clip.seed, clip.number))
    height, width = clip.height, clip.width
    speed = math.exp(rng.uniform(*np.log(clip.speed)))
    camera = _draw_motion(rng, speed * rng.choice([2.0, 6.0, 12.0]), speed, np.array([width / 2, height / 2]))
    pixels = _choose(rng, clip.photos)
    # Large enough to cover the frame with a quarter to spare for the camera's motion, but never enlarged.
    least = 1.25 * max(height / pixels.shape[0], width / pixels.shape[1])
    layers = [Layer(pixels, min(max(rng.uniform(0.45, 1.0), least), max(least, 1.0)), camera)]
    for _ in range(rng.integers(0, 8)):
        start = np.array([rng.uniform(0.1, 0.9) * width, rng.uniform(0.1, 0.9) * height])
        motion = _draw_motion(rng, speed * rng.choice([2.0, 6.0, 14.0]), speed, start)
        layers.append(_cut_out(rng, _choose(rng, clip.photos), motion, min(height, width)))
    is_blurred = rng.random() < 1 / 3
    # Half the frame interval is exposed.
    moments = tuple(0.5 * k / _EXPOSURES for k in range(_EXPOSURES)) if is_blurred else (0.0,)
    return Scene(tuple(layers), moments, clip.num_frames / 2)


def _choose(rng, photos):
    return open_photo(photos[rng.integers(len(photos))])


def _draw_motion(rng, amplitude, speed, start):
    """Draws a path of at most about `amplitude` pixels a frame; turning and zooming follow the speed."""
    velocity = rng.normal(0, 1, 2) * amplitude * rng.uniform(0.1, 1)
    turns, zooms = rng.random(2) < 0.6
    return Motion(
        start=start,
        velocity=velocity,
        frequency=speed * rng.uniform(0.08, 0.25),
        phase=rng.uniform(0, 2 * np.pi),
        turn=speed * rng.normal(0, 0.6) * turns,
        zoom=speed * rng.normal(0, 0.006) * zooms,
    )


def _cut_out(rng, photo, motion, extent):
    """Returns a layer of the shape of a blob or a polygon, cut out of a photograph."""
    cv2 = _import_cv2()
    scale = rng.uniform(0.4, 0.9)
    corners = rng.integers(5, 12)
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    radius = rng.uniform(0.35, 1.0, corners) * rng.uniform(0.08, 0.32) * extent / scale
    stretch = rng.uniform(0.5, 1.6, 2)
    points = np.stack([np.cos(angles), np.sin(angles)], 1) * radius[:, None] * stretch  # [corners, 2]
    if rng.random() < 0.5:
        points = _smooth(points)
    softness = rng.uniform(0.6, 1.2) / scale
    pad = 4 * softness + 2
    half = np.ceil(np.abs(points).max(axis=0) + pad).astype(int)  # (x, y)
    half = np.minimum(half, np.array(photo.shape[1::-1]) // 2)
    x, y = (int(rng.integers(h, length - h + 1)) for h, length in zip(half, photo.shape[1::-1], strict=True))
    pixels = photo[y - half[1] : y + half[1], x - half[0] : x + half[0]]
    mask = np.zeros(pixels.shape[:2], np.float32)
    # Corners in sixteenths of a pixel.
    cv2.fillPoly(mask, [np.int32((points + half) * 16)], 1.0, cv2.LINE_AA, 4)
    mask = cv2.GaussianBlur(mask, (0, 0), softness)
    reach = (float(np.hypot(*points.T).max()) + pad) * scale
    return Layer(pixels, scale, motion, mask, reach)


def _smooth(points):
    """Returns a closed Catmull-Rom curve through the points, 8 steps for each."""
    u = np.linspace(0, 1, 8, endpoint=False)[:, None]
    before, after, next_ = (np.roll(points, shift, axis=0)[:, None] for shift in (1, -1, -2))
    here = points[:, None]
    curve = 0.5 * (
        2 * here
        + (after - before) * u
        + (2 * before - 5 * here + 4 * after - next_) * u**2
        + (3 * here - before - 3 * after + next_) * u**3
    )
    return curve.reshape(-1, 2)
