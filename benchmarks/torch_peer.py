"""The strongest PyTorch version we could write of the same CE, SOP and SOP+ steps, to race ours.

Networks, losses ('official' variant), row update and optimiser are those of `sop_jax`. A race is
worth its effort only against a fast peer, so the data live on the device, views are made there for
the whole batch at once, the step never waits for the host, and `variants` lists several ways to
run. Where the peer does less than ours it gains by it: it pads the images once instead of at every
step, keeps no tracker of margins and predictions, and draws from one generator instead of one for
each example. The strong view of SOP+ is crop, flip and cutout WITHOUT AutoAugment: ours does the
same with augment.strong=weak, and more work with its default. Precision: float32 on the CPU, as
ours; bfloat16 autocast on a GPU.
"""

import functools
import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

EPS, PADDING, CUTOUT = 1e-4, 4, 16
ROW_RATE, REFERENCE_BATCH_SIZE = 10.0, 128  # a row moves at ROW_RATE * B / 128, as ours


@dataclass(frozen=True)
class Variant:
    """A way to run the step."""

    channels_last: bool = True  # NHWC in memory, else NCHW
    # gather and write B rows of u and v, else SGD over the whole tables (published code)
    sparse_rows: bool = True
    compiled: bool = False  # torch.compile of views, network and loss
    graphed: bool = False  # the whole step is one CUDA graph


def variants(device: str) -> dict[str, Variant]:
    """The ways to run that exist here.

    'plain' is as the authors' code, the others are as fast as PyTorch allows.
    """
    found = {"plain": Variant(channels_last=False, sparse_rows=False), "channels_last": Variant()}
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        found["graphed"] = Variant(graphed=True)
    compiler = shutil.which(os.environ.get("CC", "gcc") if on_gpu else os.environ.get("CXX", "g++"))
    if compiler and (not on_gpu or importlib.util.find_spec("triton")):
        found["compiled"] = Variant(compiled=True, graphed=on_gpu)
    return found


def synchronise(device: str) -> None:
    """Waits until the device has done all that was asked of it."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def _sop_terms(
    logits: Tensor, targets: Tensor, u: Tensor, v: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(mean loss [], corrected prediction q [B, K], prediction p [B, K])."""
    on_given, elsewhere = (u * u * targets).clamp(0, 1), (v * v * (1 - targets)).clamp(0, 1)
    probs = logits.softmax(-1)
    q = (probs + on_given - elsewhere.detach()).clamp(min=EPS)
    q = (q / q.sum(-1, keepdim=True)).clamp(EPS, 1)
    hard = _one_hot(logits.argmax(-1), targets)
    squares = (hard + on_given - elsewhere - targets) ** 2
    return (squares - targets * q.log()).sum() / len(logits), q, probs


def sop_loss(logits: Tensor, targets: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """SOP [] of logits and one-hot targets [B, K], and the gathered rows u [B, 1] and v [B, K]."""
    return _sop_terms(logits, targets, u, v)[0]


def sop_plus_loss(
    weak: Tensor,
    strong: Tensor,
    targets: Tensor,
    u: Tensor,
    v: Tensor,
    consistency_weight: float = 0.9,
    balance_weight: float = 0.1,
) -> Tensor:
    """SOP+ [] of the logits [B, K] of both views; the others as in `sop_loss`."""
    sop, q, probs = _sop_terms(weak, targets, u, v)
    consistency = functional.kl_div(strong.log_softmax(-1), probs.detach(), reduction="batchmean")
    balance = -q.mean(0).clamp(EPS, 1).log().mean()
    return sop + consistency_weight * consistency + balance_weight * balance


ce_loss = functional.cross_entropy  # logits [B, K], labels [B]


def _one_hot(labels: Tensor, like: Tensor) -> Tensor:
    return (labels[:, None] == torch.arange(like.shape[-1], device=like.device)).to(like.dtype)


def dense_optimizer(
    u: nn.Parameter, v: nn.Parameter, rate_u: float, rate_v: float
) -> torch.optim.Optimizer:
    """The published code's update: gradients of the size of the tables, [N, 1] and [N, K]."""
    return torch.optim.SGD(
        [{"params": [u], "lr": rate_u}, {"params": [v], "lr": rate_v}], lr=0.0, fused=True
    )


@torch.no_grad()
def update_rows(table: Tensor, index: Tensor, gradient: Tensor, rate: float) -> None:
    """One gradient step, in place, of the rows `index` [B], distinct, of table [N, ...]."""
    table.index_add_(0, index, gradient, alpha=-rate)


def _conv(before: int, after: int, size: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, size, stride, padding=size // 2, bias=False)


def _norm(features: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(features)
    norm.num_batches_tracked = None  # not needed at a fixed momentum, and one kernel a layer
    return norm


class Activation(Protocol):
    def __call__(self, x: Tensor) -> Tensor:
        """Of the same shape."""


class BasicBlock(nn.Module):
    """conv-BN-act-conv-BN plus shortcut, then act."""

    def __init__(self, before: int, after: int, stride: int, act: Activation):
        super().__init__()
        self.act = act
        self.conv0, self.norm0 = _conv(before, after, stride=stride), _norm(after)
        self.conv1, self.norm1 = _conv(after, after), _norm(after)
        if before == after and stride == 1:
            self.shortcut = nn.Identity()
        else:
            self.shortcut = nn.Sequential(_conv(before, after, 1, stride), _norm(after))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(self.conv1(self.act(self.norm0(self.conv0(x)))))
        return self.act(y + self.shortcut(x))


class PreActBlock(nn.Module):
    """BN-act-conv-BN-act-conv plus a shortcut taken after the first activation."""

    def __init__(self, before: int, after: int, stride: int, act: Activation):
        super().__init__()
        self.act = act
        self.norm0, self.conv0 = _norm(before), _conv(before, after, stride=stride)
        self.norm1, self.conv1 = _norm(after), _conv(after, after)
        self.shortcut = None if before == after and stride == 1 else _conv(before, after, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        pre = self.act(self.norm0(x))
        y = self.conv1(self.act(self.norm1(self.conv0(pre))))
        return y + (x if self.shortcut is None else self.shortcut(pre))


class ResNet(nn.Module):
    """As sop_jax.models.resnet, module for module: [B, C, H, W] -> [B, K]."""

    def __init__(
        self,
        block: type[nn.Module],
        stages: tuple[int, ...],
        channels: int,
        num_classes: int,
        width: int,
        act: Activation,
    ):
        super().__init__()
        self.act = act
        self.stem, self.norm = _conv(channels, width), _norm(width)
        blocks, before = [], width
        for stage, count in enumerate(stages):
            for i in range(count):
                blocks.append(block(before, width * 2**stage, 2 if stage and not i else 1, act))
                before = width * 2**stage
        self.blocks, self.head = nn.Sequential(*blocks), nn.Linear(before, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.act(self.norm(self.stem(x)))).mean((2, 3)))


def make_network(
    name: str, channels: int, num_classes: int, width: int = 16, activation: str = "silu"
) -> ResNet:
    """small_resnet (of this width and activation), resnet34 or preact_resnet18."""
    # the gradient of batch-norm does not need its output
    relu = functools.partial(functional.relu, inplace=True)
    if name == "small_resnet":
        act = {"relu": relu, "silu": functional.silu}[activation]
        return ResNet(BasicBlock, (1, 1, 1), channels, num_classes, width, act)
    block, stages = {
        "resnet34": (BasicBlock, (3, 4, 6, 3)),
        "preact_resnet18": (PreActBlock, (2, 2, 2, 2)),
    }[name]
    return ResNet(block, stages, channels, num_classes, 64, relu)


def _crop_flip(padded: Tensor, index: Tensor) -> Tensor:
    """Random crop and flip: uint8 [B, H, W, C] of the images `index` [B] of [N, H+8, W+8, C]."""
    height, width = (n - 2 * PADDING for n in padded.shape[1:3])
    draws = torch.rand(3, len(index), 1, device=padded.device)
    top, left = (draws[:2] * (2 * PADDING + 1)).long()
    y, x = torch.arange(height, device=padded.device), torch.arange(width, device=padded.device)
    x = torch.where(draws[2] < 0.5, width - 1 - x, x)
    return padded[index[:, None, None], (top + y)[:, :, None], (left + x)[:, None]]


def _outside_cutout(size: int, sides: tuple[int, int], device: torch.device) -> Tensor:
    """bool [size, H, W, 1], false in a square of side CUTOUT about a random pixel of each image."""
    inside = []
    for length, draw in zip(sides, torch.rand(2, size, 1, device=device), strict=True):
        offset = torch.arange(length, device=device) - (draw * length).long()
        inside.append((offset >= -CUTOUT // 2) & (offset < CUTOUT // 2))
    y, x = inside
    return ~(y[:, :, None] & x[:, None])[..., None]


def _batches(num_rows: int, batch_size: int, device: str) -> Iterator[Tensor]:
    """Batches of distinct rows, int64 [B], without end.

    A new permutation every epoch, its incomplete end left out.
    """
    whole = num_rows // batch_size * batch_size
    while True:
        yield from torch.randperm(num_rows, device=device)[:whole].split(batch_size)


def _capture(step: Callable[[Tensor], Tensor], batches: Iterator[Tensor]) -> Callable[[], Tensor]:
    """`step` as one CUDA graph.

    Three real steps before it compile, choose kernels and make the momentum buffers.
    """
    index = next(batches).clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step(index)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step(index)

    def replay() -> Tensor:
        index.copy_(next(batches))
        graph.replay()
        return loss

    return replay


class Objective(nn.Module):
    """Loss of a batch of rows of the resident set: views, network in training mode, loss."""

    def __init__(
        self,
        method: str,
        network: ResNet,
        images: np.ndarray,
        labels: np.ndarray,
        channels_last: bool,
    ):
        super().__init__()
        self.method, self.network, self.channels_last = method, network, channels_last
        # enough for both, and little memory
        mean, std = (f(images[:10_000], (0, 1, 2)) for f in (np.mean, np.std))
        padding = ((0, 0), (PADDING, PADDING), (PADDING, PADDING), (0, 0))
        self.register_buffer("padded", torch.from_numpy(np.pad(images, padding)))
        self.register_buffer("labels", torch.from_numpy(np.asarray(labels, np.int64)))
        self.register_buffer("scale", torch.tensor(1 / std, dtype=torch.float32))
        self.register_buffer("shift", torch.tensor(-mean / std, dtype=torch.float32))

    def views(self, index: Tensor) -> Tensor:
        """float32 [V*B, C, H, W] of rows index [B]: the weak views, then SOP+'s strong ones."""
        strong = self.method == "sop_plus"
        pixels = _crop_flip(self.padded, torch.cat([index, index]) if strong else index)
        made = torch.addcmul(self.shift, pixels.float(), self.scale)
        if strong:
            keep = _outside_cutout(len(index), pixels.shape[1:3], index.device)
            made = made * torch.cat([torch.ones_like(keep), keep])
        made = made.permute(0, 3, 1, 2)  # channels last in memory as it stands
        return made if self.channels_last else made.contiguous()

    def forward(self, index: Tensor, *rows: Tensor) -> Tensor:
        """Loss [] of rows index [B]; `rows` are u [B, 1] and v [B, K], none for 'ce'."""
        labels = self.labels[index]
        with torch.autocast("cuda", torch.bfloat16, enabled=index.is_cuda, cache_enabled=False):
            logits = self.network(self.views(index))
        logits = logits.float()
        if self.method == "ce":
            return ce_loss(logits, labels)
        loss = {"sop": sop_loss, "sop_plus": sop_plus_loss}[self.method]
        return loss(*logits.split(len(index)), _one_hot(labels, logits), *rows)


def make_step(
    method: str,
    network: str,
    variant: str,
    images: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    batch_size: int,
    device: str,
    seed: int = 0,
    width: int = 16,
    activation: str = "silu",
) -> Callable[[], Tensor]:
    """One training step as a function without arguments, which returns the loss [].

    The next call may overwrite it.

    Args:
      method: 'ce', 'sop' or 'sop_plus'.
      network, width, activation: see `make_network`.
      variant: a key of `variants(device)`.
      images: uint8 [N, H, W, C].
      labels: int [N].
      num_classes: K.
      batch_size: B.
      device: 'cpu' or 'cuda'.
      seed: of everything that is drawn.
    """
    how = variants(device)[variant]
    torch.manual_seed(seed)
    if torch.device(device).type == "cuda":
        torch.backends.cudnn.benchmark = torch.backends.cudnn.allow_tf32 = True
        torch.set_float32_matmul_precision("high")
    net = make_network(network, images.shape[-1], num_classes, width, activation)
    widths = () if method == "ce" else (1, num_classes)
    # u and v
    tables = [nn.Parameter(1e-8 * torch.randn(len(images), n).to(device)) for n in widths]
    objective = Objective(method, net, images, labels, how.channels_last).to(device)
    if how.channels_last:
        net.to(memory_format=torch.channels_last)
    rate = ROW_RATE * batch_size / REFERENCE_BATCH_SIZE
    optimizers = [
        torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4, fused=True)
    ]
    if tables and not how.sparse_rows:
        optimizers.append(dense_optimizer(*tables, rate, rate))
    if how.compiled:
        # of one function for all steps made in this process
        torch._dynamo.config.recompile_limit = 100
        mode = "max-autotune-no-cudagraphs" if how.graphed else "default"
        objective.compile(fullgraph=True, dynamic=False, mode=mode)

    def step(index: Tensor) -> Tensor:
        rows = [table[index] for table in tables]
        if how.sparse_rows:
            rows = [row.detach().requires_grad_() for row in rows]
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss = objective(index, *rows)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        if how.sparse_rows:
            for table, row in zip(tables, rows, strict=True):
                update_rows(table, index, row.grad, rate)
        return loss.detach()

    batches = _batches(len(images), batch_size, device)
    return _capture(step, batches) if how.graphed else lambda: step(next(batches))
