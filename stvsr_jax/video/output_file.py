"""Muxes encoded packets into a video file, with the input's sound, subtitles, chapters and covers.

All that the container may refuse is tried before the first frame is computed: a picture, and real packets of each
stream of sound and subtitles, go into a scratch file that is read back (`rehearsal`). If a container still refuses the
finished packets, the result goes into Matroska beside it: nothing computed is lost.
"""

import os
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction

import av
import numpy as np

from stvsr_jax import files
from stvsr_jax.video import codecs, covers, encoding, media, rehearsal, remux
from stvsr_jax.video.encoding import VideoFormat
from stvsr_jax.video.remux import Treatment

# Container facts that are not the user's, or that the muxer writes itself.
_OWN_METADATA = ("major_brand", "minor_version", "compatible_brands", "encoder")
_MP4_SUFFIXES = (".mp4", ".mov", ".m4v")
_HOLD_TIME_CODES = ("mp4", "mov", "matroska")
# When frames are shown is left to the player; FFmpeg takes the end of each of H.264 for that.
_HOLD_DECODING_TIMES = ("avi",)
# Packets of each sound stream that are rehearsed.
_REHEARSED = 200


class OutputFile:
    """A video file that will be written: its streams, and how its packets are muxed.

    Args:
      path: final name; its suffix chooses the container.
      video: what to write.
      source: input file whose sound, subtitles, chapters and cover pictures are carried over, or None.
      origin: seconds of the source's clock that are time 0.
      shifts: what to add to the source's clock in each of its parts, see `side_times`.
      end: about when the picture ends, to end sound and subtitles with it; None carries all of them over.

    Attributes:
      notes: remarks on streams that cannot be copied and on cropping, one line each.
      has_global_header: whether packets come without headers of their own.

    Raises:
      ValueError: the container does not exist or does not hold the codec.
    """

    def __init__(
        self,
        path: pathlib.Path,
        video: VideoFormat,
        *,
        source: pathlib.Path | None = None,
        origin: Fraction = Fraction(0),
        shifts: Sequence[Fraction] = (Fraction(0),),
        end: Fraction | None = None,
    ):
        self.path, self.video = path, video
        self.notes = []
        self._source, self._origin, self._shifts, self._end = source, origin, shifts, end
        self._treatments, self._chapters, self._covers = (), [], []
        with tempfile.TemporaryDirectory() as folder:
            self._rehearse_all(pathlib.Path(folder) / f"trial{path.suffix}")
        height, width = video.encoded_size
        if (height, width) != (video.height, video.width):
            self.notes.append(f"cropped to {width}x{height}: {video.encoded_format} needs even sizes")

    def assemble(self, path: pathlib.Path, packets: Iterable[av.Packet]) -> list[str]:
        """Writes a file of encoded packets and whatever comes with them; leaves none if that fails.

        Returns:
          Notes on what of the other streams was left out.
        """
        sides = self._write(path, packets, self._treatments)
        return [
            f"{count} damaged packets of {treatment.stream.label} are left out"
            for treatment in self._treatments
            if (count := sides.refused[treatment.stream.index])
        ]

    def deliver(self, work: pathlib.Path, read_packets: Callable[[], Iterable[av.Packet]]) -> list[str]:
        """Makes the file in a work folder and gives it its name, in Matroska if its own container refuses it.

        Returns:
          Notes on what differs from the plan.

        Raises:
          OSError, av.FFmpegError: the disk or the machine does not let it be written.
        """
        whole = work / f"whole{self.path.suffix}"
        try:
            notes = self.assemble(whole, read_packets())
            os.replace(whole, self.path)
            return notes
        except (av.FFmpegError, ValueError) as error:
            if remux.is_of_the_machine(error):
                raise
            spare = _spare_name(self.path)
            notes = [
                f"{self.path.name} cannot be written ({rehearsal.reason_of(error)}): the result is {spare}"
            ]
        whole = work / "whole.mkv"
        try:
            matroska = OutputFile(
                spare,
                self.video,
                source=self._source,
                origin=self._origin,
                shifts=self._shifts,
                end=self._end,
            )
            notes += matroska.notes + matroska.assemble(whole, read_packets())
        except (av.FFmpegError, ValueError) as error:
            if remux.is_of_the_machine(error) or self._source is None:
                raise
            OutputFile(spare, self.video).assemble(whole, read_packets())
            notes.append(f"sound and subtitles are left out ({rehearsal.reason_of(error)})")
        os.replace(whole, spare)
        return notes

    def _rehearse_all(self, trial):
        """Finds out which streams the container takes."""
        try:
            with media.open_to_write(trial) as container:
                self.has_global_header = bool(container.format.flags & av.format.Flags.global_header.value)
                format_name = container.format.name
            self._trial_packets = list(_encode_trial(self.video, self.has_global_header))
            self._write(trial, self._trial_packets, ())
        except (av.FFmpegError, ValueError, OSError) as error:
            reason = rehearsal.reason_of(error)
            if isinstance(error, av.FFmpegError):
                reason += codecs.explain_failure(self.video.codec)
            raise ValueError(
                f"output {self.path} cannot be written with codec {self.video.codec}: {reason}"
            ) from error
        if (
            format_name in _HOLD_DECODING_TIMES
            and self.video.codec == "h264"
            and not self.video.has_constant_rate
        ):
            self.notes.append(
                f"FFmpeg's players show a varying rate in {format_name} a frame late; Matroska keeps it"
            )
        if self.video.timecode and format_name not in _HOLD_TIME_CODES:
            self.notes.append(f"the time code does not fit {format_name} and is left out")
        if self._source is None:
            return
        streams, left_out = remux.list_streams(self._source)

        def rehearse(treatments):
            sides = self._write(trial, self._trial_packets, treatments, packet_limit=_REHEARSED)
            _check_carried(trial, treatments, sides)

        self._treatments, notes = rehearsal.choose_treatments(streams, rehearse, format_name=format_name)
        self.notes += left_out + notes
        if self._end is None and (chapters := _read_chapters(self._source, self._origin)):
            self._chapters = chapters
            try:
                self._write(trial, self._trial_packets, ())
            except (av.FFmpegError, ValueError):
                self._chapters = []
                self.notes.append(f"chapters do not fit {format_name} and are left out")
        if found := covers.read_covers(self._source):
            self._covers = found
            try:
                self._write(trial, self._trial_packets, ())
                is_held = covers.count_covers(trial) == len(found)
            except (av.FFmpegError, ValueError):
                is_held = False
            if not is_held:
                self._covers = []
                self.notes += [f"{cover.label} does not fit {format_name} and is left out" for cover in found]

    def _write(self, path, packets, treatments, *, packet_limit=None):
        """Writes a file and returns its `SideStreams`, closed; leaves no file if that fails."""
        container = sides = None
        try:
            container, stream, sides, stills = self._open(path, treatments, packet_limit)
            for packet in stills:
                container.mux_one(packet)
            end = Fraction(0)
            for packet in packets:
                sides.mux_until(packet.dts * packet.time_base)
                end = max(end, (packet.pts + packet.duration) * packet.time_base)
                packet.stream = stream
                container.mux_one(packet)
            if packet_limit is not None and self._end is not None:
                end = self._end  # the packets are not the whole picture
            sides.mux_until(None if self._end is None else end)
            sides.finish()
            container.close()
        except BaseException:
            if container:
                remux.close_quietly(container)
            path.unlink(missing_ok=True)
            raise
        finally:
            if sides:
                sides.close()
        return sides

    def _open(self, path, treatments, packet_limit):
        """Returns (container, its video stream, SideStreams, packets of covers), the header written."""
        video = self.video
        is_mp4 = path.suffix.lower() in _MP4_SUFFIXES
        container = media.open_to_write(path, options={"movflags": "+faststart"} if is_mp4 else {})
        sides = None
        try:
            # Its encoder is opened to describe the stream and never used.
            encoder = codecs.CODECS[video.codec].encoder
            options = encoding.encoder_options(video)
            stream = container.add_stream(encoder, rate=video.rate, options=options)
            encoding.configure(stream.codec_context, video, is_tagged=is_mp4)
            stream.disposition = av.stream.Disposition.default
            if video.language:
                stream.metadata["language"] = video.language
            if video.timecode and container.format.name in _HOLD_TIME_CODES:
                stream.metadata["timecode"] = video.timecode
            container.metadata.update({k: v for k, v in video.metadata.items() if k not in _OWN_METADATA})
            if self._chapters:
                container.set_chapters(self._chapters)
            sides = remux.SideStreams(
                self._source,
                container,
                treatments,
                origin=self._origin,
                shifts=self._shifts,
                packet_limit=packet_limit,
            )
            stills = covers.add_covers(container, self._source, self._covers) if self._covers else []
            container.start_encoding()  # what the encoders and the container refuse, they refuse here
        except BaseException:
            if sides:
                sides.close()
            remux.close_quietly(container)
            raise
        return container, stream, sides, stills


def _encode_trial(video, has_global_header):
    """Yields the packets of one black frame."""
    encoder = encoding.VideoEncoder(video, has_global_header=has_global_header)
    black = np.zeros((video.height, video.width, 3), np.uint16 if video.is_deep else np.uint8)
    frame = encoding.FrameMaker(video).make(black)
    duration = max(1, round(1 / video.rate / video.time_base))
    for packet in (*encoder.encode(frame, 0, duration), *encoder.flush()):
        packet.dts, packet.time_base = packet.pts, video.time_base
        yield packet


def _check_carried(trial: pathlib.Path, treatments: Sequence[Treatment], sides: remux.SideStreams) -> None:
    """Checks that streams are in a file and can be told from one another.

    Raises:
      ValueError: one is not, or most of its packets were refused.
    """
    for treatment in treatments:
        stream = treatment.stream
        written, refused = sides.written[stream.index], sides.refused[stream.index]
        if stream.kind == "audio" and written <= refused:
            raise ValueError("it holds nothing that can be written")
    with media.open_to_read(trial) as container:
        found = [remux.kind_of(s) for s in container.streams if s.type in ("audio", "subtitle")]
    expected = [sides.kinds[treatment.stream.index] for treatment in treatments]
    if sorted(map(str, found)) != sorted(map(str, expected)):
        raise ValueError("it would not be known for what it is")


def _read_chapters(source, origin):
    """Returns the chapters of a file, counted from `origin` seconds of its clock."""
    with media.open_to_read(source) as container:
        chapters = container.chapters()
    for chapter in chapters:
        for end in ("start", "end"):
            chapter[end] = max(0, chapter[end] - round(origin / chapter["time_base"]))
    return chapters


def _spare_name(path):
    """Returns a name for Matroska beside a file; no file that is there is replaced, but `path` itself."""
    names = (path.with_suffix(".mkv"), files.fit_name(path, ".mkv"))
    return next((name for name in names if name == path or not name.exists()), names[-1])
