"""Lets a torchvision built for CUDA be imported beside a CPU build of torch.

The video processors need torchvision's transforms, which are plain torch. Where the package
index has no CPU build of torchvision, importing the CUDA build fails because its compiled
operators cannot load; declaring the two operators it registers against is enough.
"""

import importlib.util
import sys
from pathlib import Path
from typing import Any

_keep: list[Any] = []


def declare_missing_ops() -> None:
    """Declare torchvision's operators if its compiled library cannot be loaded.

    Call before anything imports torchvision. Does nothing where the library loads.
    """
    import torch.library

    spec = importlib.util.find_spec("torchvision")
    if _keep or "torchvision" in sys.modules or spec is None or torch.version.cuda is not None:
        return
    for folder in spec.submodule_search_locations or []:
        for compiled in Path(folder).glob("_C*.so"):
            try:
                torch.ops.load_library(str(compiled))  # type: ignore[no-untyped-call]
                return
            except OSError:
                continue
    library: Any = torch.library
    fragment = library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        fragment.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _keep.append(fragment)
