"""Model classes that vLLM finds in this process."""

import torch


def register_models() -> None:
    """Let vLLM look at the model classes here and not in a process of its own.

    Where torchvision's operators are declared by hand, that process would not find them.
    """
    from vllm import ModelRegistry
    from vllm.model_executor.models.qwen2_5_vl import Qwen2_5_VLForConditionalGeneration
    from vllm.model_executor.models.qwen3_vl import Qwen3VLForConditionalGeneration

    if torch.version.cuda is None:
        for model in (Qwen2_5_VLForConditionalGeneration, Qwen3VLForConditionalGeneration):
            ModelRegistry.register_model(model.__name__, model)
