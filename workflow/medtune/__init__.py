"""medtune: post-training of medical vision-language models, from volumes to a report."""

__version__ = "0.1.0"
