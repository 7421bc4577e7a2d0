"""A sample as a model sees it: chat text, pixel patches and placeholders that must agree."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtune.errors import DataError, VisionError
from medtune.files import sha256
from medtune.media.video import decode
from medtune.schema import Media, Sample

# Fields a processor returns beside the token ids, which every forward pass must receive.
VISION_FIELDS = ("pixel_values_videos", "video_grid_thw", "second_per_grid_ts")


@dataclass(frozen=True)
class Encoded:
    """One prompt with its video.

    Attributes:
        input_ids: Token ids (n,) with expanded placeholders, up to the assistant's turn.
        types: (n,) 0 for text, 2 for a video placeholder.
        vision: Tensors of `VISION_FIELDS`.
    """

    input_ids: Any
    types: Any
    vision: dict[str, Any]


def read_frames(media: Media, root: Path) -> NDArray[np.uint8]:
    """Return a video's frames (t, rows, columns, 3), exactly as its record describes them.

    Raises:
        DataError: The file is missing, or its content, size, frame count or rate is not the
            record's. A damaged file often still decodes, to other pixels: hence the hash.
    """
    path = root / media.path
    if not path.is_file():
        raise DataError(path, "the file does not exist", "rerun `snakemake prepare`")
    if sha256(path) != media.sha256:
        raise DataError(path, "its content is not the data set's", "rerun `snakemake prepare`")
    frames, fps = decode(path)
    found = (frames.shape[0], frames.shape[1], frames.shape[2])
    expected = (media.frames, media.height, media.width)
    if found != expected or abs(fps - media.fps) > 1e-6:
        raise DataError(
            path,
            f"shows (frames, height, width) {found} at {fps} fps, the data set says {expected} "
            f"at {media.fps}",
            "rerun `snakemake prepare`",
        )
    return frames


WRAPPED_VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"


def chat_text(processor: Any, prompt: str) -> str:
    """Return the chat text of a video question, up to the assistant's turn.

    Qwen3-VL puts every frame pair into vision markers of its own, after its time stamp. The
    reference processor (transformers 4.57) and vLLM drop the outer markers then; transformers 5
    keeps them (vllm-project/vllm#46817), so they are taken away here.
    """
    content = [{"type": "video"}, {"type": "text", "text": prompt}]
    text: str = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    if type(processor).__name__ == "Qwen3VLProcessor":
        text = text.replace(WRAPPED_VIDEO, "<|video_pad|>")
    return text


def encode_prompt(processor: Any, prompt: str, frames: NDArray[np.uint8], fps: float) -> Encoded:
    """Return token ids and vision tensors of a question about a video.

    The processor may neither resize nor drop frames, and the rate reaches it: both are asserted.

    Raises:
        VisionError: The processor changed the frames, or placeholders and patches disagree.
    """
    _check_size(processor, frames)
    count = len(frames)
    metadata = {
        "fps": fps,
        "total_num_frames": count,
        "duration": count / fps,
        "frames_indices": list(range(count)),
    }
    batch = processor(
        text=[chat_text(processor, prompt)],
        videos=[frames],
        video_metadata=[metadata],
        do_resize=False,
        do_sample_frames=False,
        cap_pixels_per_frame=False,
        fps=fps,
        return_tensors="pt",
    )
    ids = batch["input_ids"][0]
    vision = {name: batch[name] for name in VISION_FIELDS if name in batch}
    _check_vision(processor, ids, vision, frames.shape, fps)
    types = (ids == processor.video_token_id).long() * 2
    return Encoded(ids, types, _as_tensors(vision))


def prompt_length(processor: Any, prompt: str, media: Media) -> int:
    """Return the number of tokens of a question about a video, without reading the video.

    The processor writes the placeholders of one token per temporal patch; the others follow from
    the sizes.
    """
    from transformers.video_utils import VideoMetadata

    video = processor.video_processor
    merge, merged = video.merge_size, video.patch_size * video.merge_size
    patches = -(-media.frames // video.temporal_patch_size)
    shown = {
        "video_grid_thw": np.array([[patches, merge, merge]]),
        "video_metadata": [
            VideoMetadata(media.frames, fps=media.fps, frames_indices=list(range(media.frames)))
        ],
    }
    placeholders = processor.replace_video_token(shown, 0)
    text = chat_text(processor, prompt).replace(processor.video_token, placeholders)
    per_patch = (media.height // merged) * (media.width // merged)
    return int(len(processor.tokenizer(text)["input_ids"]) + patches * (per_patch - 1))


def _check_size(processor: Any, frames: NDArray[np.uint8]) -> None:
    """Assert that the processor can take the frames as they are."""
    merged = processor.video_processor.patch_size * processor.video_processor.merge_size
    height, width = frames.shape[1:3]
    if height % merged or width % merged:
        raise VisionError(
            "video size",
            f"frames of {width} x {height} pixels would have to be resized again: this model "
            f"needs multiples of {merged}",
            f"set media.multiple_of: {merged} and rerun `snakemake prepare`",
        )


def _as_tensors(vision: dict[str, Any]) -> dict[str, Any]:
    import torch

    return {name: torch.as_tensor(value) for name, value in vision.items()}


def _check_vision(
    processor: Any, ids: Any, vision: dict[str, Any], shape: tuple[int, ...], fps: float
) -> None:
    """Assert that patches cover the frames as they are and placeholders match the patches."""
    video = processor.video_processor
    grid = [int(n) for n in vision["video_grid_thw"][0]]
    step = video.temporal_patch_size
    expected = [-(-shape[0] // step), shape[1] // video.patch_size, shape[2] // video.patch_size]
    if grid != expected:
        raise VisionError(
            "video grid",
            f"the processor made {grid} patches of a video of shape {shape}, expected {expected}",
            "set media.multiple_of to the model's patch x merge",
        )
    rows = vision["pixel_values_videos"].shape[0]
    holders = int((ids == processor.video_token_id).sum())
    if rows != np.prod(grid) or holders * video.merge_size**2 != rows:
        raise VisionError(
            "placeholders",
            f"{holders} placeholders and {rows} patches for a grid of {grid}",
            "the processor and the chat template do not fit together",
        )
    seconds = vision.get("second_per_grid_ts")
    if seconds is not None and abs(float(seconds[0]) - step / fps) > 1e-6:
        raise VisionError(
            "frame rate", f"{float(seconds[0])} s per patch at {fps} fps", "pass fps on"
        )


def encode_sample(processor: Any, sample: Sample, prompt: str, root: Path) -> Encoded:
    """Return the encoded question of a sample; `root` is its data set's folder."""
    media = sample.media[0]
    return encode_prompt(processor, prompt, read_frames(media, root), media.fps)
