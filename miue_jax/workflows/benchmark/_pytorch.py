"""The same steps and losses in plain PyTorch, which is imported here alone."""

import contextlib
from collections.abc import Callable, Sequence

import jax
import torch
from torch import nn
from torch.nn import functional

from miue_jax import models
from miue_jax.workflows.benchmark import _losses, _networks
from miue_jax.workflows.benchmark._work import Work


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


def step(
    kind: str,
    model: str,
    width: int,
    batch_size: int,
    dtype: str,
    steps: int | None,
    compiled: bool = False,
) -> Work:
    """The steps of `_networks.step`: eager or compiled, channels last."""
    count = _networks.steps_of_call(steps)
    module = models.create(model, num_classes=_networks.CLASSES, width=width)
    assert isinstance(module, models.ResNet)
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    net = ResNet(_networks.CLASSES, module.stage_sizes, module.bottleneck, module.width)
    net = net.to(_device(), memory_format=torch.channels_last)
    if compiled:
        net.compile()
    images, labels = _networks.batch(batch_size)
    x = torch.from_numpy(images).permute(0, 3, 1, 2)
    x = x.to(_device()).contiguous(memory_format=torch.channels_last)
    y = torch.from_numpy(labels).long().to(_device())
    once = _training(net, x, y, dtype)
    if kind == "perturb":
        once = _perturbation(net, x, y, dtype)

    def run() -> None:
        state = None
        for _ in range(count):
            state = once(state)
        _wait()

    return Work(run, steps=count)


def _training(
    net: ResNet, x: torch.Tensor, y: torch.Tensor, dtype: str
) -> Callable[[None], None]:
    """SGD with momentum on the cross-entropy of one batch."""
    net.train()
    optimizer = torch.optim.SGD(
        net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4
    )

    def once(_: None) -> None:
        optimizer.zero_grad(set_to_none=True)
        with _compute_in(dtype):
            _, logits = net(x)
            loss = functional.cross_entropy(logits, y)
        loss.backward()
        optimizer.step()

    return once


def _perturbation(
    net: ResNet, x: torch.Tensor, y: torch.Tensor, dtype: str
) -> Callable[[torch.Tensor | None], torch.Tensor]:
    """Signed projected gradient steps on the similarity loss of one batch."""
    # The gradient to the parameters is not wanted here.
    net.eval().requires_grad_(False)
    radius = _networks.RADIUS

    def once(delta: torch.Tensor | None) -> torch.Tensor:
        delta = torch.zeros_like(x) if delta is None else delta
        delta.requires_grad_(True)
        with _compute_in(dtype):
            features, _ = net(x + delta)
            loss = similarity_loss(features.float(), y)
        (gradient,) = torch.autograd.grad(loss, delta)
        with torch.no_grad():
            moved = delta - _networks.STEP_SIZE * gradient.sign()
            return (x + moved.clamp(-radius, radius)).clamp(0, 1) - x

    return once


def mi_ue(batch_size: int, dim: int) -> Work:
    """The objective of MI-UE with all pairs in matrices."""
    return _gradient(mi_ue_loss, batch_size, dim)


def covariance(batch_size: int, dim: int, statistic: str) -> Work:
    """The covariance within classes, class by class."""

    def loss(features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return covariance_loss(features, labels, statistic)

    return _gradient(loss, batch_size, dim)


def _gradient(loss: Callable, batch_size: int, dim: int) -> Work:
    features, labels = _losses.samples(batch_size, dim)
    z = torch.from_numpy(features).to(_device()).requires_grad_(True)
    y = torch.from_numpy(labels).long().to(_device())

    def run() -> torch.Tensor:
        (gradient,) = torch.autograd.grad(loss(z, y), z)
        _wait()
        return gradient

    return Work(run, value=lambda found: float(found.norm()))


def similarity_loss(
    features: torch.Tensor, labels: torch.Tensor, temperature: float = 0.1
) -> torch.Tensor:
    """The soft-nearest-neighbor loss of `miue_jax.losses`, without its floor."""
    unit = functional.normalize(features, dim=1)
    similarities = unit @ unit.T / temperature
    same = labels[:, None] == labels[None, :]
    within = similarities.masked_fill(~same, -torch.inf).logsumexp(1)
    return (similarities.logsumexp(1) - within).mean()


def distance_loss(features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The distance loss of `miue_jax.losses`, by the Gram identity."""
    norms = features.square().sum(1)
    squares = norms[:, None] + norms[None, :] - 2 * features @ features.T
    same = labels[:, None] == labels[None, :]
    same = same ^ torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    # Where nothing is summed a root must not have the gradient of 0.
    roots = torch.where(same, squares.clamp_min(1e-12), 1.0).sqrt()
    sums = torch.where(same, roots, 0.0).sum(1)
    return (1 + sums / features.shape[1]).log().mean()


def mi_ue_loss(features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The objective of MI-UE."""
    return similarity_loss(features, labels) + 0.1 * distance_loss(features, labels)


def covariance_loss(
    features: torch.Tensor, labels: torch.Tensor, statistic: str, noise: float = 0.1
) -> torch.Tensor:
    """The conditional covariance of `miue_jax.losses`, class by class."""
    unit = functional.normalize(features, dim=1)
    total = unit.new_zeros(())
    for label in range(_losses.CLASSES):
        members = unit[labels == label]
        centered = members - members.mean(0)
        share = len(members) / len(unit)
        if statistic == "trace":
            total = total + share * centered.square().sum() / (len(members) - 1)
            continue
        # On the smaller of the two sides.
        tall = len(members) > features.shape[1]
        gram = centered.T @ centered if tall else centered @ centered.T
        eye = torch.eye(len(gram), device=gram.device)
        factor = torch.linalg.cholesky(eye + gram / (noise * (len(members) - 1)))
        total = total + share * factor.diagonal().log().sum()
    return total


def _device() -> torch.device:
    """The one that JAX uses."""
    kind = jax.default_backend()
    if kind == "cpu":
        return torch.device("cpu")
    # JAX calls a CUDA device "gpu".
    if kind != "gpu" or not torch.cuda.is_available():
        raise RuntimeError(f"PyTorch finds no {kind}")
    return torch.device("cuda")


def _compute_in(dtype: str) -> contextlib.AbstractContextManager:
    if dtype == "float32":
        return contextlib.nullcontext()
    return torch.autocast(_device().type, dtype=getattr(torch, dtype))


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
