"""Makes whole frames of interlaced ones, from the first frame on that says it is interlaced."""

import itertools
from collections.abc import Iterable, Iterator
from fractions import Fraction

import av
import av.filter


def deinterlace(frames: Iterable[av.VideoFrame], time_base: Fraction) -> Iterator[av.VideoFrame]:
    """Makes one whole frame of each frame's two fields (FFmpeg's bwdif); progressive frames stay as they are.

    Recordings may begin with progressive frames, change between both, and change their size. Every frame comes
    out with its pts.

    Args:
      frames: in display order.
      time_base: of their pts, seconds.
    """
    graph = kind = before = None
    for frame in frames:
        if graph is not None and _kind(frame) != kind:
            yield from _flush(graph, time_base)
            graph = before = None
        if graph is None and not frame.interlaced_frame:
            before = frame
            yield frame
            continue
        made = 0
        if graph is None:
            graph, kind = _make_graph(frame, time_base), _kind(frame)
            if before is not None and _kind(before) == kind:
                graph.push(before)  # only to be looked at: it is out already
                made = 1
        graph.push(frame)
        yield from itertools.islice(_pull(graph, time_base), made, None)
    if graph is not None:
        yield from _flush(graph, time_base)


def _kind(frame):
    return frame.width, frame.height, frame.format.name


def _make_graph(frame, time_base):
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=time_base, name="in"
    )
    # One frame per frame, only those marked as interlaced.
    graph.link_nodes(source, graph.add("bwdif", "mode=0:deint=1"), graph.add("buffersink")).configure()
    return graph


def _flush(graph, time_base):
    graph.push(None)
    yield from _pull(graph, time_base)


def _pull(graph, time_base):
    while True:
        try:
            frame = graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        if frame.pts is not None:  # the filter counts twice as fast
            frame.pts = round(frame.pts * frame.time_base / time_base)
        yield frame
