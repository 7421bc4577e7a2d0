"""vLLM's server, also where torchvision's operators are missing: `python -m medtune.models.vllm_server`.

The processes that it starts import the main module again, and so find the operators and models.
"""

from medtune.training.engine import register_models

register_models()

if __name__ == "__main__":
    from vllm.entrypoints.launchers.api_server.entry import main

    main()
