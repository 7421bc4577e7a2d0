"""`vllm`, also where torchvision's operators are missing: `python -m medtune.llm.vllm_main serve`.

vLLM imports the main module again in the processes that it starts, and so declares them there too.
"""

import sys

from medtune.models.torchvision_ops import declare_missing_ops

declare_missing_ops()

if __name__ == "__main__":
    from vllm.entrypoints.cli.main import main

    sys.exit(main())
