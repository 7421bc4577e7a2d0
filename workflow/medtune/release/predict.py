"""Answers a question about a video or an image: `python predict.py video.mp4 "question"`.

A copy of this file lies in every exported folder. It needs torch, torchvision, transformers,
jinja2, pillow and, for videos, av; medtune, which wrote the folder, need not be installed.
"""

import argparse
from pathlib import Path
from typing import Any

from medtune.models.positions import correct_positions
from medtune.models.torchvision_ops import declare_missing_ops

WRAPPED_VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"
PLACEHOLDERS = ["<|vision_start|>", "<|vision_end|>"]
PLACEHOLDERS += ["<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]
IMAGES = (".png", ".jpg", ".jpeg")


def load(folder: str | Path) -> tuple[Any, Any]:
    """Return the model, with the positions it was trained with, and the processor of a folder."""
    declare_missing_ops()
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(str(folder))
    model = AutoModelForImageTextToText.from_pretrained(str(folder), dtype="auto").eval()
    correct_positions(model)
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), processor


def answer(
    model: Any, processor: Any, path: str | Path, question: str, max_new_tokens: int = 512
) -> str:
    """Return the greedy answer to a question about a file.

    Args:
        model: The model.
        processor: Its processor.
        path: A video, or an image as PNG or JPEG. Sides must be multiples of patch x merge, since
            pixels are shown as they are.
        question: The question, as the model card words it.
        max_new_tokens: Longest answer.

    Raises:
        ValueError: The sides are others.
    """
    import torch

    inputs = encode(processor, Path(path), question).to(model.device)
    tokenizer, prompt = processor.tokenizer, inputs["input_ids"].shape[1]
    declared = model.generation_config.eos_token_id
    ends = {*(declared if isinstance(declared, list) else [declared]), tokenizer.eos_token_id}
    with torch.no_grad():
        tokens = model.generate(
            **inputs,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            suppress_tokens=tokenizer.convert_tokens_to_ids(PLACEHOLDERS),
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=sorted(ends - {None}),
        )[0, prompt:]
    return str(tokenizer.decode(tokens, skip_special_tokens=True))


def encode(processor: Any, path: Path, question: str) -> Any:
    """Return the inputs of the model: nothing is resized, and no frame is left out."""
    kind = "image" if path.suffix.lower() in IMAGES else "video"
    content = [{"type": kind}, {"type": "text", "text": question}]
    chat = [{"role": "user", "content": content}]
    text = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    if kind == "image":
        from PIL import Image

        picture = Image.open(path).convert("RGB")
        check_sides(processor, path, picture.size)
        given = {"images": [picture]}
    else:
        if type(processor).__name__ == "Qwen3VLProcessor":  # marks every frame itself
            text = text.replace(WRAPPED_VIDEO, "<|video_pad|>")
        frames, rate = read_video(path)
        check_sides(processor, path, (frames.shape[2], frames.shape[1]))
        given = {"videos": [frames], **shown(len(frames), rate)}
    inputs = processor(text=[text], do_resize=False, return_tensors="pt", **given)
    # 1 for tokens of an image and 2 for those of a video, as the positions count them.
    ids, number = inputs["input_ids"], {"image": 1, "video": 2}[kind]
    inputs["mm_token_type_ids"] = (ids == getattr(processor, f"{kind}_token_id")).long() * number
    return inputs


def shown(count: int, rate: float) -> dict[str, Any]:
    """Return what a processor must know to show all frames of a video at its rate."""
    times = {"fps": rate, "total_num_frames": count, "duration": count / rate}
    times["frames_indices"] = list(range(count))  # type: ignore[assignment]
    keep = {"do_sample_frames": False, "cap_pixels_per_frame": False, "fps": rate}
    return {"video_metadata": [times], **keep}


def read_video(path: Path) -> tuple[Any, float]:
    """Return the frames (t, rows, columns, 3) of a video, and its frames per second."""
    import av
    import numpy as np

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return np.stack(frames), float(stream.average_rate or 0)


def check_sides(processor: Any, path: Path, size: tuple[int, int]) -> None:
    """Check that a file need not be resized.

    Raises:
        ValueError: It would.
    """
    sizes = processor.image_processor
    side = sizes.patch_size * sizes.merge_size
    if any(length % side for length in size):
        raise ValueError(f"{path}: {size[0]} x {size[1]} pixels, must be multiples of {side}")


def main() -> None:
    """Answer on the command line, by the model in the folder of this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", help="a video, or an image as PNG or JPEG")
    parser.add_argument("question", help="as the model card words it, with the sizes of the file")
    parser.add_argument("--max-new-tokens", type=int, default=512)
    given = parser.parse_args()
    model, processor = load(Path(__file__).parent)
    print(answer(model, processor, given.file, given.question, given.max_new_tokens))


if __name__ == "__main__":
    main()
