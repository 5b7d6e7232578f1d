"""What `benchmark.py` times beside the library: the same steps in plain PyTorch."""

import contextlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional

Run = Callable[[], None]


class ResNet(nn.Module):
    """The CIFAR residual network of `miue_jax.models`: to features and logits."""

    def __init__(
        self, num_classes: int, stage_sizes: Sequence[int], bottleneck: bool, width: int
    ) -> None:
        super().__init__()
        self.stem = _conv_and_norm(3, width, 3)
        blocks, channels = [], width
        for stage, size in enumerate(stage_sizes):
            for index in range(size):
                strides = 2 if stage > 0 and index == 0 else 1
                blocks.append(_Block(channels, width * 2**stage, strides, bottleneck))
                channels = width * 2**stage * (4 if bottleneck else 1)
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Maps images (B, 3, H, W) in [0, 1] to features (B, D) and logits."""
        x = self.blocks(functional.relu(self.stem(images)))
        features = x.float().mean((2, 3))
        return features, self.head(features)


class _Block(nn.Module):
    def __init__(self, inputs: int, width: int, strides: int, bottleneck: bool) -> None:
        super().__init__()
        outputs = width * 4 if bottleneck else width
        if bottleneck:
            layers = [(inputs, width, 1, 1), (width, width, 3, strides)]
            layers.append((width, outputs, 1, 1))
        else:
            layers = [(inputs, width, 3, strides), (width, width, 3, 1)]
        self.layers = nn.ModuleList(_conv_and_norm(*layer) for layer in layers)
        self.shortcut = nn.Identity()
        if strides != 1 or inputs != outputs:
            self.shortcut = _conv_and_norm(inputs, outputs, 1, strides)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for layer in self.layers[:-1]:
            y = functional.relu(layer(y))
        return functional.relu(self.layers[-1](y) + self.shortcut(x))


def _conv_and_norm(
    inputs: int, outputs: int, kernel: int, strides: int = 1
) -> nn.Module:
    conv = nn.Conv2d(inputs, outputs, kernel, strides, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


def similarity_loss(
    features: torch.Tensor, labels: torch.Tensor, temperature: float = 0.1
) -> torch.Tensor:
    """The soft-nearest-neighbor loss of `miue_jax.losses`, without its floor."""
    unit = functional.normalize(features, dim=1)
    similarities = unit @ unit.T / temperature
    same = labels[:, None] == labels[None, :]
    within = similarities.masked_fill(~same, -torch.inf).logsumexp(1)
    return (similarities.logsumexp(1) - within).mean()


def train_run(
    model: ResNet, images: np.ndarray, labels: np.ndarray, *, steps: int, dtype: str
) -> Run:
    """Steps of SGD with momentum on the cross-entropy of one batch."""
    x, y = _batch(model, images, labels)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4
    )

    def run() -> None:
        model.train()
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            with _compute_in(dtype, x):
                _, logits = model(x)
                loss = functional.cross_entropy(logits, y)
            loss.backward()
            optimizer.step()
        _wait_for(x)

    return run


def perturbation_run(
    model: ResNet,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    steps: int,
    radius: float,
    step_size: float,
    dtype: str,
) -> Run:
    """Signed projected gradient steps on the similarity loss of one batch."""
    x, y = _batch(model, images, labels)
    # The gradient to the parameters is not wanted here.
    model.requires_grad_(False)

    def run() -> None:
        model.eval()
        delta = torch.zeros_like(x)
        for _ in range(steps):
            delta.requires_grad_(True)
            with _compute_in(dtype, x):
                features, _ = model(x + delta)
                loss = similarity_loss(features.float(), y)
            (gradient,) = torch.autograd.grad(loss, delta)
            with torch.no_grad():
                moved = (delta - step_size * gradient.sign()).clamp(-radius, radius)
                delta = (x + moved).clamp(0, 1) - x
        _wait_for(x)

    return run


def _batch(
    model: ResNet, images: np.ndarray, labels: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    device = next(model.parameters()).device
    x = torch.from_numpy(images).permute(0, 3, 1, 2)
    x = x.to(device).contiguous(memory_format=torch.channels_last)
    return x, torch.from_numpy(labels).long().to(device)


def _compute_in(dtype: str, x: torch.Tensor) -> contextlib.AbstractContextManager:
    if dtype == "float32":
        return contextlib.nullcontext()
    return torch.autocast(x.device.type, dtype=getattr(torch, dtype))


def _wait_for(x: torch.Tensor) -> None:
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)
