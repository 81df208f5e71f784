"""PyTorch modules of the strategies, apart so that listing the strategies does not import torch."""
