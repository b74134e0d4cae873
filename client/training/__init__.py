"""Everything that touches torch, transformers and peft. The door below must open before transformers is imported."""

import warnings

from client.training.torchvision_door import open_torchvision

open_torchvision()

from transformers.utils import logging  # noqa: E402

logging.disable_progress_bar()  # stderr is ours
# peft 0.21 asks transformers 5.23 for a property under its old name.
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
