"""What an experiment will need, before it runs: tokens, memory, steps, time."""

from medtune.models.torchvision_ops import declare_missing_ops

declare_missing_ops()  # before anything below imports transformers
