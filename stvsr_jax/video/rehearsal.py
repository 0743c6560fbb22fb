"""Chooses how the sound and subtitles of an input get into an output, by trying.

A container refuses a stream in its header, at a packet, or only in its trailer. Some accept streams that nobody can read
again. So each choice is rehearsed with real packets in a scratch file, which is read back.
"""

from collections.abc import Callable, Iterator, Sequence

import av

from stvsr_jax.video.remux import SideStream, Treatment, is_of_the_machine

# Raises av.FFmpegError or ValueError if these treatments together do not work.
Rehearse = Callable[[Sequence[Treatment]], None]
# What sound is converted to, the best for each format first.
_CODECS = ("aac", "ac3", "libmp3lame", "libopus", "flac", "pcm_s16le")
_FAVOURITES = {"webm": "libopus", "ogg": "libopus", "avi": "libmp3lame"}
_FALLBACK_LAYOUT = "stereo"


def choose_treatments(
    streams: Sequence[SideStream], rehearse: Rehearse, *, format_name: str
) -> tuple[list[Treatment], list[str]]:
    """Returns what becomes of each stream that can be carried over, and notes on those that are not copied.

    Args:
      streams: of the input.
      rehearse: tries treatments together.
      format_name: of the output.
    """
    copies = [Treatment(stream, layout=stream.layout) for stream in streams]
    if _try(rehearse, copies) is None:
        return copies, []
    chosen, notes = [], []
    for stream in streams:
        problem = f"{stream.label} does not fit {format_name}"
        reasons = []
        for treatment in _options(stream, format_name):
            reason = _try(rehearse, [*chosen, treatment])
            if reason is None:
                chosen.append(treatment)
                if treatment.codec:
                    notes.append(f"{problem} and is converted to {_name(treatment)}")
                break
            reasons.append(reason)
        else:
            notes.append(f"{problem} and is left out ({reasons[0]})")
    return chosen, notes


def reason_of(error: Exception) -> str:
    """Returns what an error says, without the names of scratch files."""
    return getattr(error, "strerror", None) or str(error)


def _options(stream: SideStream, format_name: str) -> Iterator[Treatment]:
    yield Treatment(stream, layout=stream.layout)
    if not stream.can_convert:
        return
    favourite = _FAVOURITES.get(format_name, _CODECS[0])
    for codec in (favourite, *(codec for codec in _CODECS if codec != favourite)):
        for layout in dict.fromkeys((stream.layout, _FALLBACK_LAYOUT)):
            if layout is not None:
                yield Treatment(stream, codec, layout)


def _name(treatment):
    name = av.Codec(treatment.codec, "w").canonical_name
    return name if treatment.layout == treatment.stream.layout else f"{name}, {treatment.layout}"


def _try(rehearse, treatments):
    """Returns why treatments do not work, or None."""
    try:
        rehearse(treatments)
    except (av.FFmpegError, ValueError) as error:
        if is_of_the_machine(error):
            raise
        return reason_of(error)
    return None
