"""Encoding frames to H.264, decoding them, and proving that the two agree."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from medtune.errors import DataError
from medtune.files import atomic_path

Frames = NDArray[np.uint8]

# Largest and mean grey-level error that decoding may show against the frames that were encoded.
# H.264 at quality 4 in limited-range YUV loses a few levels; subsampled colour would lose more,
# so colour layouts are encoded at full chroma resolution.
ERROR_BOUNDS = {"h264": (16.0, 1.0), "lossless": (0.0, 0.0)}


def _stream_options(codec: str, colour: bool) -> tuple[str, str, dict[str, str]]:
    """Return (encoder, pixel format, options).

    The quantiser is constant: x264's rate control (mb-tree) depends on more than its input, and
    gave other bytes for equal frames in 32 of 380 encodings on a busy machine.
    """
    options = {"preset": "medium", "threads": "1", "bf": "0", "g": "8"}
    if codec == "lossless":
        return "libx264rgb", "rgb24", options | {"qp": "0"}
    return "libx264", "yuv444p" if colour else "yuv420p", options | {"qp": "4"}


def encode(path: Path, frames: Frames, fps: float, codec: str) -> None:
    """Write frames (t, rows, columns, 3) as an mp4; the same input gives the same bytes."""
    colour = bool((frames != frames[..., :1]).any())
    encoder, pixel_format, options = _stream_options(codec, colour)
    with (
        atomic_path(path) as temporary,
        av.open(str(temporary), "w", format="mp4", options={"fflags": "+bitexact"}) as container,
    ):
        stream: Any = container.add_stream(
            encoder, rate=Fraction(fps).limit_denominator(1000), options=options
        )
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixel_format
        stream.codec_context.flags |= av.codec.context.Flags.bitexact
        for frame in frames:
            image = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(image))
        container.mux(stream.encode())


def decode(path: Path) -> tuple[Frames, float]:
    """Return all frames (t, rows, columns, 3) of a video and its frames per second.

    Raises:
        DataError: The file is missing or cannot be decoded.
    """
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            convert = VideoReformatter().reformat  # one converter for all frames: twice as fast
            frames = [
                convert(frame, format="rgb24").to_ndarray() for frame in container.decode(stream)
            ]
            rate = float(stream.average_rate or 0)
    except (FileNotFoundError, av.FFmpegError, IndexError) as error:
        raise DataError(path, f"cannot be decoded ({error})", "rerun its conversion") from None
    return np.stack(frames), rate


def encode_verified(path: Path, frames: Frames, fps: float, codec: str) -> None:
    """Encode, decode back, and compare size, frame count, rate and grey levels.

    Raises:
        DataError: The decoded video differs beyond `ERROR_BOUNDS`; the file is removed.
    """
    encode(path, frames, fps, codec)
    shown, rate = decode(path)
    worst, mean = ERROR_BOUNDS[codec]
    problem = None
    if shown.shape != frames.shape or abs(rate - fps) > 1e-6:
        problem = f"decodes to {shown.shape} at {rate} fps, expected {frames.shape} at {fps}"
    else:
        error = np.abs(shown.astype(np.int16) - frames)
        if error.max() > worst or error.mean() > mean:
            problem = (
                f"grey levels differ by up to {error.max()} (mean {error.mean():.2f}), "
                f"allowed {worst} ({mean})"
            )
    if problem:
        path.unlink()
        raise DataError(path, problem, "set media.codec: lossless")
