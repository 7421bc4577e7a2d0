"""Encoding frames to H.264, decoding them, and proving that the two agree."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from medtune.runtime.errors import DataError
from medtune.runtime.files import atomic_path

Frames = NDArray[np.uint8]
Frame = NDArray[np.uint8]

# Largest and mean gray-level error that decoding may show against the frames that were encoded.
# H.264 at quality 4 in limited-range YUV loses a few levels; subsampled color would lose more,
# so color layouts are encoded at full chroma resolution.
ERROR_BOUNDS = {"h264": (16.0, 1.0), "lossless": (0.0, 0.0)}


def _stream_options(codec: str, color: bool) -> tuple[str, str, dict[str, str]]:
    """Return (encoder, pixel format, options).

    The quantiser is constant: x264's rate control (mb-tree) depends on more than its input, and
    gave other bytes for equal frames in 32 of 380 encodings on a busy machine. At a constant
    quantiser slower presets make no smaller files: on a BraTS case `medium` gave 3.82 MB in
    1.15 s and `veryfast` 3.77 MB in 0.46 s, with a mean error of 0.08 and 0.09.
    """
    options = {"preset": "veryfast", "threads": "1", "bf": "0", "g": "8"}
    if codec == "lossless":
        return "libx264rgb", "rgb24", options | {"qp": "0"}
    return "libx264", "yuv444p" if color else "yuv420p", options | {"qp": "4"}


def encode(path: Path, frames: Frames, fps: float, codec: str) -> None:
    """Write frames as an mp4; the same input gives the same bytes.

    Args:
        path: The file.
        frames: Gray (t, rows, columns) or color (t, rows, columns, 3).
        fps: Frames per second.
        codec: A key of `ERROR_BOUNDS`.
    """
    color = frames.ndim == 4
    encoder, pixel_format, options = _stream_options(codec, color)
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
            shown = frame if color else np.repeat(frame[..., None], 3, axis=-1)
            image = av.VideoFrame.from_ndarray(np.ascontiguousarray(shown), format="rgb24")
            container.mux(stream.encode(image))
        container.mux(stream.encode())


def read_video(path: Path) -> Iterator[tuple[Frame, float]]:
    """Yield the frames (rows, columns, 3) of a video, each with the frames per second.

    Raises:
        DataError: The file is missing or cannot be decoded.
    """
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            rate = float(stream.average_rate or 0)
            convert = VideoReformatter().reformat  # one converter for all frames: twice as fast
            for frame in container.decode(stream):
                shown: Any = convert(frame, format="rgb24").to_ndarray()
                yield shown, rate
    except (FileNotFoundError, av.FFmpegError, IndexError) as error:
        raise DataError(path, f"cannot be decoded ({error})", "rerun its conversion") from None


def decode(path: Path) -> tuple[Frames, float]:
    """Return all frames (t, rows, columns, 3) of a video and its frames per second.

    Raises:
        DataError: The file is missing, cannot be decoded or holds no frame.
    """
    shown = list(read_video(path))
    if not shown:
        raise DataError(path, "holds no frame", "rerun its conversion")
    frames, rates = zip(*shown, strict=True)
    return np.stack(frames), rates[0]


def encode_verified(path: Path, frames: Frames, fps: float, codec: str) -> None:
    """Encode, decode back, and compare size, frame count, rate, color and gray levels.

    Raises:
        DataError: The decoded video differs beyond `ERROR_BOUNDS`; the file is removed.
    """
    encode(path, frames, fps, codec)
    problem = _difference(path, frames, fps, *ERROR_BOUNDS[codec])
    if problem:
        path.unlink()
        raise DataError(path, problem, "set media.codec: lossless")


def _difference(path: Path, frames: Frames, fps: float, worst: float, mean: float) -> str | None:
    """Return how a video differs from its frames, or None if it is within the bounds."""
    largest, total, count = 0, 0.0, 0
    for count, (shown, rate) in enumerate(read_video(path), start=1):
        if count > len(frames):
            break
        frame = frames[count - 1]
        if shown.shape[:2] != frame.shape[:2] or abs(rate - fps) > 1e-6:
            return f"shows {shown.shape} at {rate} fps, expected {frame.shape} at {fps}"
        if frame.ndim == 2 and (shown != shown[..., :1]).any():
            return f"frame {count - 1} is not gray"
        seen = shown if frame.ndim == 3 else shown[..., 0]
        error = np.maximum(seen, frame) - np.minimum(seen, frame)
        largest, total = max(largest, int(error.max())), total + float(error.mean())
    if count != len(frames):
        return f"has {count} frames or more, expected {len(frames)}"
    if largest > worst or total / count > mean:
        return (
            f"gray levels differ by up to {largest} (mean {total / count:.2f}), "
            f"allowed {worst} ({mean})"
        )
    return None
