"""What is encoded is what is decoded, here and by other readers."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from medtune.media import video
from medtune.media.video import decode, encode, encode_verified
from medtune.models.inputs import read_frames
from medtune.records.sample import Media
from medtune.runtime.errors import DataError
from medtune.runtime.files import sha256


def frames(color: bool) -> np.ndarray:
    """Return smooth frames: (7, 32, 48) gray or (7, 32, 48, 3) color."""
    rng = np.random.default_rng(0)
    smooth = np.cumsum(rng.normal(size=(7, 32, 48, 3)), axis=2) * 12 + 110
    smooth[:, :8] = 0
    clipped = np.clip(smooth, 0, 255).astype(np.uint8)
    return clipped if color else clipped[..., 0]


@pytest.mark.parametrize("codec", ["h264", "lossless"])
@pytest.mark.parametrize("color", [False, True])
def test_video_decodes_to_its_frames(tmp_path: Path, codec, color):
    path, shown = tmp_path / "a.mp4", frames(color)
    encode_verified(path, shown, 2.0, codec)
    decoded, fps = decode(path)
    assert (decoded.shape, fps) == ((7, 32, 48, 3), 2.0)
    error = np.abs(decoded.astype(int) - (shown if color else shown[..., None]))
    assert error.mean() <= (0 if codec == "lossless" else 1.0)
    if not color:
        assert np.ptp(decoded, axis=-1).max() == 0  # gray stays gray
    first = path.read_bytes()
    encode(path, shown, 2.0, codec)
    assert path.read_bytes() == first


def read_opencv(path: Path) -> np.ndarray:
    import cv2

    video, frames = cv2.VideoCapture(str(path)), []
    while True:
        more, frame = video.read()
        if not more:
            return np.stack(frames)[..., ::-1]
        frames.append(frame)


def read_torchcodec(path: Path) -> np.ndarray:
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, OSError, RuntimeError) as error:
        pytest.skip(f"torchcodec cannot be loaded here: {str(error).splitlines()[0]}")
    return VideoDecoder(str(path), dimension_order="NHWC")[:].numpy()


@pytest.mark.parametrize("read", [read_opencv, read_torchcodec])
@pytest.mark.parametrize("color", [False, True])
@pytest.mark.parametrize("codec", ["h264", "lossless"])
def test_other_decoders_show_the_same(tmp_path: Path, read, color, codec):
    """vLLM decodes with OpenCV by default; Qwen's tools with torchcodec."""
    path, shown = tmp_path / "a.mp4", frames(color)
    encode(path, shown, 2.0, codec)
    decoded = read(path)
    assert decoded.shape == (7, 32, 48, 3)
    error = np.abs(decoded.astype(int) - (shown if color else shown[..., None]))
    assert error.max() <= 16
    assert error.mean() <= 1.0
    if not color:
        assert np.ptp(decoded, axis=-1).max() == 0


@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium to play a video in")
def test_browsers_play_the_default(tmp_path: Path):
    """The page writes what the player found: size, length and the gray level of its middle."""
    level = np.full((4, 64, 96), 128, np.uint8)
    encode(tmp_path / "a.mp4", level, 2.0, "h264")
    (tmp_path / "page.html").write_text(
        """<video id="v" src="a.mp4" muted></video><p id="p">none</p><script>
        v.onloadeddata = () => {
          const c = document.createElement("canvas").getContext("2d");
          c.drawImage(v, 0, 0);
          p.textContent = [v.videoWidth, v.videoHeight, v.duration].join(" ");
        };
        v.onerror = () => { p.textContent = v.error.message; };</script>"""
    )
    run = subprocess.run(
        [
            *("chromium", "--headless", "--no-sandbox", "--disable-gpu"),
            *("--allow-file-access-from-files", "--virtual-time-budget=4000", "--dump-dom"),
            f"file://{tmp_path}/page.html",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert '<p id="p">96 64 2</p>' in run.stdout, run.stdout + run.stderr


def test_a_video_that_decodes_differently_is_refused(tmp_path: Path, monkeypatch):
    from medtune.media import video

    path, right = tmp_path / "a.mp4", frames(False)
    colored = np.repeat(right[..., None], 3, axis=-1)
    tinted, wrong = colored.copy(), colored.copy()
    tinted[3, 5, 5, 0] ^= 2
    wrong[3, 5, 5] ^= 64
    for shown, rate, words in (
        (colored[:-1], 2.0, "has 6 frames or more, expected 7"),
        (np.concatenate([colored, colored]), 2.0, "has 8 frames or more, expected 7"),
        (colored[:, :-1], 2.0, "expected"),
        (colored, 3.0, "at 3.0 fps"),
        (tinted, 2.0, "frame 3 is not gray"),
        (wrong, 2.0, "differ by up to 64"),
    ):
        decoded = [(frame, rate) for frame in shown]
        monkeypatch.setattr(video, "read_video", lambda _, decoded=decoded: iter(decoded))
        with pytest.raises(DataError, match=words):
            encode_verified(path, right, 2.0, "h264")
        assert not path.exists()


def test_missing_and_truncated_videos_are_named(tmp_path: Path):
    with pytest.raises(DataError, match="cannot be decoded"):
        decode(tmp_path / "none.mp4")
    encode(tmp_path / "a.mp4", frames(False), 2.0, "h264")
    (tmp_path / "a.mp4").write_bytes((tmp_path / "a.mp4").read_bytes()[:900])
    with pytest.raises(DataError, match="cannot be decoded"):
        decode(tmp_path / "a.mp4")


def test_a_video_without_a_frame_is_named(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(video, "read_video", lambda _: iter(()))
    with pytest.raises(DataError, match=r"a\.mp4: holds no frame"):
        decode(tmp_path / "a.mp4")


@pytest.mark.parametrize(("frames_said", "fps"), [(6, 2.0), (7, 4.0)])
def test_a_video_that_is_not_the_record_s_is_refused(tmp_path: Path, frames_said, fps):
    encode(tmp_path / "a.mp4", frames(False), 2.0, "h264")
    digest = sha256(tmp_path / "a.mp4")
    values = {"kind": "video", "path": "a.mp4", "width": 48, "height": 32, "sha256": digest}
    with pytest.raises(DataError, match="the data set says"):
        read_frames(Media(**values, frames=frames_said, fps=fps), tmp_path)


def test_a_damaged_video_is_refused_even_where_it_decodes(tmp_path: Path):
    path = tmp_path / "a.mp4"
    encode(path, frames(False), 2.0, "h264")
    media = Media(
        kind="video", path="a.mp4", width=48, height=32, frames=7, fps=2, sha256=sha256(path)
    )
    assert len(read_frames(media, tmp_path)) == 7
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    path.write_bytes(damaged)
    with pytest.raises(DataError, match="its content is not the data set's"):
        read_frames(media, tmp_path)
