"""Opens media files: files alone, whatever their names, with titles that need not be UTF-8.

FFmpeg takes a name for an address and follows playlists to other files and hosts. Here "12:30.mp4" is a file,
and formats that open anything beside the file itself are refused. Text that is not UTF-8 (AVI titles, say) is
read as Windows-1252.
"""

import codecs
import functools
import os
from typing import Any

import av
from av.codec.hwaccel import HWAccel

# Formats that open other files, addresses or devices.
_PLAYLISTS = "applehttp concat concatf dash dvdvideo hls imf ipmovie mlv sdp vobsub webm_dash_manifest"
_SCRIPTS_AND_STREAMS = "avisynth lavfi rtp rtsp sap vapoursynth"
_DEVICES = (
    "alsa android_camera avfoundation bktr decklink dshow fbdev gdigrab iec61883 jack kmsgrab libcdio libdc1394 "
    "openal oss pulse sndio v4l2 vfwcap video4linux2 video4linux2,v4l2 x11grab"
)
_TEXT_ERRORS = "stvsr_jax.windows-1252"


def _decode_as_windows_1252(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return error.object[error.start : error.end].decode("cp1252", "replace"), error.end


codecs.register_error(_TEXT_ERRORS, _decode_as_windows_1252)


def open_to_read(path: str | os.PathLike, *, hwaccel: HWAccel | None = None) -> av.container.InputContainer:
    """Opens a media file.

    Args:
      path: of the file.
      hwaccel: hardware that decodes its video.

    Raises:
      av.FFmpegError: it cannot be read, or is a playlist or something else that leads to other files.
    """
    options = {
        "protocol_whitelist": "file",
        "format_whitelist": _single_file_formats(),
        "pattern_type": "none",  # "a%d.png" is one picture, not all that it could stand for
    }
    try:
        return av.open(_address(path), options=options, metadata_errors=_TEXT_ERRORS, hwaccel=hwaccel)
    except av.error.ArgumentError as error:  # what FFmpeg answers if a format is not on the list
        if hwaccel is not None:
            raise
        reason = "not a media file, or one that leads to others (a playlist), which is not followed"
        raise av.error.InvalidDataError(error.errno, reason, os.fspath(path)) from error


def open_to_write(
    path: str | os.PathLike, *, format: str | None = None, options: dict[str, Any] | None = None
) -> av.container.OutputContainer:
    """Opens a media file for writing; its suffix chooses the format unless `format` names one.

    Raises:
      av.FFmpegError: it cannot be written.
      ValueError: no format has this suffix or name.
    """
    return av.open(_address(path), "w", format=format, container_options=options or {})


def open_to_nowhere(format: str) -> av.container.OutputContainer:
    """Opens a container whose bytes are thrown away: what a format refuses, it refuses here too."""
    return av.open(_Nowhere(), "w", format=format)


class _Nowhere:
    """A file that forgets what is written to it."""

    def __init__(self):
        self._position = self._size = 0

    def write(self, data: bytes) -> int:
        self._position += len(data)
        self._size = max(self._size, self._position)
        return len(data)

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        starts = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}
        self._position = starts[whence] + offset
        return self._position


def _address(path):
    """Returns what FFmpeg never takes for an address, an option or a pattern."""
    return f"file:{os.fspath(path)}"


@functools.cache
def _single_file_formats():
    refused = " ".join((_PLAYLISTS, _SCRIPTS_AND_STREAMS, _DEVICES)).split()
    return ",".join(sorted(av.formats_available.difference(refused)))
