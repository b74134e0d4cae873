"""The one place that imports torchvision, before transformers does.

The released torchvision wheel carries compiled operators (nms, roi_align, …) for CUDA builds of torch. Beside a CPU
torch those operators are not registered, and the import fails while torchvision describes them to torch.compile. The
image processors need none of them, only the resize functions. So when, and only when, that import fails, it is
done again with `torch.library.register_fake` ignoring torchvision's own operators. Beside a matching build nothing is
touched.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch


def open_torchvision() -> bool:
    """Import torchvision; True if its fake operators had to be left out."""
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    else:
        return False
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    original = torch.library.register_fake

    def all_but_torchvision(op: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(op, str) and op.startswith("torchvision::"):
            return _unchanged
        return original(op, *args, **kwargs)

    torch.library.register_fake = all_but_torchvision
    try:
        import torchvision  # noqa: F401
    finally:
        torch.library.register_fake = original
    return True


def _unchanged(function: Callable[..., Any]) -> Callable[..., Any]:
    return function
