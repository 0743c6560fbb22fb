"""Which weights a request takes: those that are named, or otherwise the shipped set that fits it."""

import dataclasses

from stvsr_jax import models
from stvsr_jax.weights import shipped, sources

# Sets by preference. Zooming Slow-Mo is the better of the two networks where it can do what is asked for; `video` is
# trained on compressed input, as video files are, `zooming_slowmo` on clean input.
FOR_VIDEOS = ("video", "zooming_slowmo")
FOR_PICTURES = ("zooming_slowmo",)
FOR_ANY_SCALE = ("videoinr",)
_PREFERRED = "zooming_slowmo"  # the network of the sets that are preferred


@dataclasses.dataclass(frozen=True)
class Choice:
    """Weights, and why these.

    Attributes:
      source: as of `sources.load`.
      remark: one line for the user if nobody named them, otherwise None.
    """

    source: str
    remark: str | None


def choose(
    *,
    checkpoint: str | None = None,
    model: str | None = None,
    space: float | None = None,
    time: int | None = None,
    size: tuple[int, int] | None = None,
    fps: object = None,
    is_video: bool = True,
) -> Choice:
    """Returns the weights that a request takes.

    Args:
      checkpoint: a source that the user names, as of `sources.load`.
      model: a shipped set that the user names.
      space: enlargement that is asked for; None is 4, unless `size` is given.
      time: output frames per input frame that are asked for; None is 2, unless `fps` is given.
      size: output size that is asked for.
      fps: output rate that is asked for.
      is_video: whether the input is a video file, not a folder of pictures.

    Raises:
      ValueError: both `checkpoint` and `model` are given, there are no such weights, or no set in the package fits.
    """
    if checkpoint is not None and model is not None:
        raise ValueError("--checkpoint and --model exclude each other")
    names = shipped.list_names()
    if checkpoint is not None:
        sources.check_exists(checkpoint)
        return Choice(str(checkpoint), None)
    if model is not None:
        if model not in names:
            raise ValueError(f"--model {model} is not in this package, {_ways_out(names)}")
        return Choice(model, None)
    space, time = 4 if space is None else space, 2 if time is None else time
    if size is None and fps is None and models.contract_of(_PREFERRED).can_make(space=space, time=time):
        wanted = FOR_VIDEOS if is_video else FOR_PICTURES
        reason = f"{space:g} times the size and {time} frames of each"
    else:
        wanted, reason = FOR_ANY_SCALE, "any size and frame rate"
    for name in wanted:
        if name in names:
            return Choice(name, f"weights: {name}, from this package ({reason}); --model names others")
    raise ValueError(
        f"this takes the weights {wanted[-1]}, which are not in this package, {_ways_out(names)}"
    )


def _ways_out(names):
    if not names:
        return "which has none; --checkpoint takes a training run, converted weights or hf://USER/REPO"
    return (
        f"which has {', '.join(names)} (--model); --checkpoint takes a training run, converted weights or "
        "hf://USER/REPO"
    )
