"""Everything that touches torch, transformers and peft. The door below must open before transformers is imported."""

from client.training.torchvision_door import open_torchvision

open_torchvision()
