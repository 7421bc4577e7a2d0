"""vLLM's server: `python -m medtune.models.vllm_server`, also without torchvision's operators.

The processes that it starts import the main module again, and so find the operators and models.
"""

from medtune.models.torchvision_ops import declare_missing_ops
from medtune.models.vllm_models import register_models

declare_missing_ops()
register_models()

if __name__ == "__main__":
    from vllm.entrypoints.launchers.api_server.entry import main

    main()
