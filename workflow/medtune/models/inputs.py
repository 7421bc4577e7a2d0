"""A sample as a model sees it: chat text, pixel patches and placeholders that must agree."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medtune.media.video import decode
from medtune.models.tiny import SPECIAL_TOKENS
from medtune.models.vision_tower import VISION_FIELDS, Kind
from medtune.records.sample import Media, Sample, Turn, checked
from medtune.runtime.errors import DataError, VisionError
from medtune.runtime.files import sha256

END = "<|im_end|>"
TOKEN_TYPES: dict[Kind, int] = {"image": 1, "video": 2}


@dataclass(frozen=True)
class RawPrompt:
    """What a prompt shows, before a processor makes tokens of it.

    Attributes:
        prompt: The question.
        turns: What was asked and answered before.
        text: The chat of all of it, with one placeholder.
        media: The image or video.
        root: Its data set's folder.
        frames: Its pixels (t, rows, columns, 3).
    """

    prompt: str
    turns: Sequence[Turn]
    text: str
    media: Media
    root: Path
    frames: NDArray[np.uint8]


@dataclass(frozen=True)
class Encoded:
    """One prompt with its image or video.

    Attributes:
        input_ids: Token ids (n,) with expanded placeholders, up to the assistant's turn.
        mm_token_type_ids: (n,) 0 for text, and `TOKEN_TYPES` for placeholders.
        assistant_mask: (n,) whether a token is of an earlier answer.
        vision: Tensors of `VISION_FIELDS`.
        shown: What it was made of, if that is wanted by an engine that makes its own.
    """

    input_ids: Any
    mm_token_type_ids: Any
    assistant_mask: Any
    vision: dict[str, Any]
    shown: RawPrompt | None = None

    @property
    def kind(self) -> Kind:
        """Return whether an image or a video is shown."""
        return next(kind for kind, fields in VISION_FIELDS.items() if fields[1] in self.vision)

    @property
    def source(self) -> RawPrompt:
        """Return what it was made of, which an engine makes its own tokens of."""
        assert self.shown is not None, "a prompt for an engine carries what it shows"
        return self.shown


def read_frames(media: Media, root: Path) -> NDArray[np.uint8]:
    """Return the frames (t, rows, columns, 3) of a video, or an image as one frame.

    They are exactly as the record describes them.

    Raises:
        DataError: The record is impossible (see `checked`), the file is missing, or its content,
            size, frame count or rate is not the record's. A damaged file often still decodes, to
            other pixels: hence the hash.
    """
    path = root / checked(media).path
    if not path.is_file():
        raise DataError(path, "the file does not exist", "rerun `snakemake prepare`")
    if sha256(path) != media.sha256:
        raise DataError(path, "its content is not the data set's", "rerun `snakemake prepare`")
    frames, fps = decode(path) if media.kind == "video" else (_read_image(path), 0.0)
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


def _read_image(path: Path) -> NDArray[np.uint8]:
    """Return an image as one frame (1, rows, columns, 3).

    Raises:
        DataError: It cannot be read, or has other values than 8-bit gray or color.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in ("L", "RGB"):
                raise DataError(path, f"is an image of mode {image.mode}", "write 8-bit L or RGB")
            return np.asarray(image.convert("RGB"))[None]
    except OSError as error:
        raise DataError(path, f"cannot be read as an image ({error})", "write it again") from None


WRAPPED_VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"


def answer_ids(processor: Any, answer: str) -> list[int]:
    """Return the tokens of an answer and its end, as a model generates them."""
    ids: list[int] = processor.tokenizer(answer + END, add_special_tokens=False)["input_ids"]
    return ids


def special_tokens(processor: Any) -> tuple[str, ...]:
    """Return the texts that a tokenizer reads as control tokens, longest first."""
    added = processor.tokenizer.added_tokens_decoder.values()
    return tuple(sorted((str(token) for token in added if token.special), key=len, reverse=True))


def check_texts(processor: Any, name: str, texts: Iterable[str]) -> None:
    """Check that no text would be read as a control token of the chat.

    `<|video_pad|>` in a question asks for pixels that are not there; `<|im_end|>` in an answer
    teaches to end, and to go on after the end.

    Args:
        processor: The family's processor.
        name: Id of the sample.
        texts: Its question, answer and earlier turns.

    Raises:
        DataError: One holds a special token.
    """
    tokens = special_tokens(processor)
    for text in texts:
        for token in tokens:
            if token in text:
                raise DataError(
                    name,
                    f"its text holds {token!r}, a special token of this model",
                    "take it out of the source's text, or leave the sample out",
                )


def chat_text(processor: Any, prompt: str, kind: Kind = "video", turns: Sequence[Turn] = ()) -> str:
    """Return the chat text of a question about an image or video, up to the assistant's turn.

    The media stand before the first question of the conversation.

    Qwen3-VL puts every frame pair into vision markers of its own, after its time stamp. The
    reference processor (transformers 4.57) and vLLM drop the outer markers then; transformers 5
    keeps them (vllm-project/vllm#46817), so they are taken away here.
    """
    asked = [*(turn.prompt for turn in turns), prompt]
    chat: list[dict[str, Any]] = []
    for question, turn in itertools.zip_longest(asked, turns):
        chat.append({"role": "user", "content": [{"type": "text", "text": question}]})
        if turn:
            chat.append({"role": "assistant", "content": [{"type": "text", "text": turn.target}]})
    chat[0]["content"].insert(0, {"type": kind})
    text: str = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    if type(processor).__name__ == "Qwen3VLProcessor":
        text = text.replace(WRAPPED_VIDEO, "<|video_pad|>")
    return text


def banned_tokens(processor: Any) -> tuple[int, ...]:
    """Return the tokens that are never sampled: a placeholder would have no pixels."""
    return tuple(processor.tokenizer.convert_tokens_to_ids(SPECIAL_TOKENS[3:]))


def video_metadata(fps: float, count: int) -> dict[str, Any]:
    """Return what a processor must know of a video of `count` frames, all of which are shown."""
    return {
        "fps": fps,
        "total_num_frames": count,
        "duration": count / fps,
        "frames_indices": list(range(count)),
    }


def encode_prompt(processor: Any, prompt: str, frames: NDArray[np.uint8], fps: float) -> Encoded:
    """Return token ids and vision tensors of a question about a video.

    The processor may neither resize nor drop frames, and the rate reaches it: both are asserted.

    Raises:
        VisionError: The processor changed the frames, or placeholders and patches disagree.
    """
    _check_size(processor, frames)
    batch = processor(
        text=[chat_text(processor, prompt)],
        videos=[frames],
        video_metadata=[video_metadata(fps, len(frames))],
        do_resize=False,
        do_sample_frames=False,
        cap_pixels_per_frame=False,
        fps=fps,
        return_tensors="pt",
    )
    return _encoded(processor, batch, "video", frames.shape, fps)


def encode_image(processor: Any, prompt: str, pixels: NDArray[np.uint8]) -> Encoded:
    """Return token ids and vision tensors of a question about an image.

    Args:
        processor: The family's processor; it may not resize, which is asserted.
        prompt: The question.
        pixels: Image (1, rows, columns, 3).

    Raises:
        VisionError: The processor changed the image, or placeholders and patches disagree.
    """
    _check_size(processor, pixels)
    batch = processor(
        text=[chat_text(processor, prompt, "image")],
        images=[Image.fromarray(pixels[0])],
        do_resize=False,
        return_tensors="pt",
    )
    return _encoded(processor, batch, "image", pixels.shape, 0.0)


def _encoded(processor: Any, batch: Any, kind: Kind, shape: tuple[int, ...], fps: float) -> Encoded:
    """Return a processor's output for one prompt, after checking it."""
    ids = batch["input_ids"][0]
    vision = {name: batch[name] for name in VISION_FIELDS[kind] if name in batch}
    placeholder = ids == getattr(processor, f"{kind}_token_id")
    _check_vision(processor, kind, int(placeholder.sum()), vision, shape, fps)
    mm_token_type_ids = placeholder.long() * TOKEN_TYPES[kind]
    return Encoded(ids, mm_token_type_ids, placeholder & False, _as_tensors(vision))


def _continued(
    processor: Any, first: Encoded, prompt: str, kind: Kind, turns: Sequence[Turn]
) -> Encoded:
    """Return a conversation whose first question is encoded, up to the last question.

    It is put together from pieces that end at special tokens: earlier answers are tokenized as a
    model generates them, and the mask of their tokens cannot slip.

    Raises:
        VisionError: The chat template changes what was said before.
    """
    import torch

    asked = [*(turn.prompt for turn in turns), prompt]
    pieces: list[tuple[list[int], bool]] = []
    for number, turn in enumerate(turns):
        before = chat_text(processor, asked[number], kind, turns[:number]) + turn.target + END
        after = chat_text(processor, asked[number + 1], kind, turns[: number + 1])
        if not after.startswith(before):
            raise VisionError("chat template", "changes earlier turns", "take the family's own")
        follow = processor.tokenizer(after.removeprefix(before), add_special_tokens=False)
        pieces += [(answer_ids(processor, turn.target), True), (follow["input_ids"], False)]
    ids = [first.input_ids, *(torch.tensor(piece) for piece, _ in pieces)]
    assistant_mask = [
        first.assistant_mask,
        *(torch.full((len(piece),), answer) for piece, answer in pieces),
    ]
    grown = sum(len(piece) for piece, _ in pieces)
    mm_token_type_ids = torch.nn.functional.pad(first.mm_token_type_ids, (0, grown))
    return replace(
        first,
        input_ids=torch.cat(ids),
        assistant_mask=torch.cat(assistant_mask),
        mm_token_type_ids=mm_token_type_ids,
    )


def prompt_length(processor: Any, prompt: str, media: Media, turns: Sequence[Turn] = ()) -> int:
    """Return the number of tokens of a question about an image or video, without reading it.

    The processor writes the placeholders of one token per temporal patch; the others follow from
    the sizes.

    Raises:
        DataError: The record is impossible (see `checked`).
    """
    from transformers.video_utils import VideoMetadata

    checked(media)
    sizes = processor.video_processor if media.kind == "video" else processor.image_processor
    merge, merged = sizes.merge_size, sizes.patch_size * sizes.merge_size
    patches = -(-media.frames // sizes.temporal_patch_size)
    grid = np.array([[patches, merge, merge]])
    text = chat_text(processor, prompt, media.kind, turns)
    if media.kind == "video":
        indices = list(range(media.frames))
        times = VideoMetadata(media.frames, fps=media.fps, frames_indices=indices)
        shown = {"video_grid_thw": grid, "video_metadata": [times]}
        text = text.replace(processor.video_token, processor.replace_video_token(shown, 0))
    per_patch = (media.height // merged) * (media.width // merged)
    return int(len(processor.tokenizer(text)["input_ids"]) + patches * (per_patch - 1))


def _check_size(processor: Any, frames: NDArray[np.uint8]) -> None:
    """Assert that the processor can take the frames, or the image, as they are."""
    merged = processor.video_processor.patch_size * processor.video_processor.merge_size
    height, width = frames.shape[1:3]
    if height % merged or width % merged:
        raise VisionError(
            "frame size",
            f"frames of {width} x {height} pixels would have to be resized again: this model "
            f"needs multiples of {merged}",
            f"set media.multiple_of: {merged} and rerun `snakemake prepare`",
        )


def _as_tensors(vision: dict[str, Any]) -> dict[str, Any]:
    import torch

    return {name: torch.as_tensor(value) for name, value in vision.items()}


def _check_vision(
    processor: Any,
    kind: Kind,
    holders: int,
    vision: dict[str, Any],
    shape: tuple[int, ...],
    fps: float,
) -> None:
    """Assert that patches cover the frames as they are and placeholders match the patches."""
    sizes = processor.video_processor if kind == "video" else processor.image_processor
    pixels, grids = VISION_FIELDS[kind][:2]
    grid = [int(n) for n in vision[grids][0]]
    step = sizes.temporal_patch_size
    expected = [-(-shape[0] // step), shape[1] // sizes.patch_size, shape[2] // sizes.patch_size]
    if grid != expected:
        raise VisionError(
            f"{kind} grid",
            f"the processor made {grid} patches of frames of shape {shape}, expected {expected}",
            "set media.multiple_of to the model's patch x merge",
        )
    rows = vision[pixels].shape[0]
    if rows != np.prod(grid) or holders * sizes.merge_size**2 != rows:
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


def encode_media(
    processor: Any, prompt: str, media: Media, root: Path, turns: Sequence[Turn] = ()
) -> Encoded:
    """Return the encoded question about an image or video, after what was said before.

    Args:
        processor: The family's processor.
        prompt: The question.
        media: The image or video.
        root: Its data set's folder.
        turns: Earlier questions about it, and their answers.
    """
    frames = read_frames(media, root)
    first = turns[0].prompt if turns else prompt
    if media.kind == "image":
        encoded = encode_image(processor, first, frames)
    else:
        encoded = encode_prompt(processor, first, frames, media.fps)
    encoded = _continued(processor, encoded, prompt, media.kind, turns)
    text = chat_text(processor, prompt, media.kind, turns)
    return replace(encoded, shown=RawPrompt(prompt, turns, text, media, root, frames))


def encode_sample(processor: Any, sample: Sample, prompt: str, root: Path) -> Encoded:
    """Return the encoded question of a sample; `root` is its data set's folder.

    Raises:
        DataError: A text of it holds a special token.
        VisionError: The processor ran out of media for the placeholders.
    """
    earlier = [text for turn in sample.turns for text in (turn.prompt, turn.target)]
    check_texts(processor, sample.id, [prompt, *earlier])
    try:
        return encode_media(processor, prompt, sample.media[0], root, sample.turns)
    except StopIteration:
        # Would end an epoch, as if there were no more samples.
        raise VisionError(
            sample.id, "holds more placeholders than media", "look at its texts"
        ) from None
