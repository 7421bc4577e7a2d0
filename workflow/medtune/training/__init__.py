"""SFT and GRPO on samples with video. Importing this package imports torch."""

from medtune.models.torchvision_ops import declare_missing_ops

declare_missing_ops()  # before anything below imports transformers
