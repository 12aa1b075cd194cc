"""The LLaMA decoder: RMSNorm, rotary positions, gated MLP, no biases, an untied head.

Touvron et al. 2023, arXiv 2302.13971; with equal weights its logits are those of `transformers.LlamaForCausalLM`.
Shape legend: b sequences, t positions, d hidden size, h heads, k size of a head, n = b * t tokens, v vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from workloads.architecture import Architecture
from workloads.batches import IGNORED


class Linear(nn.Linear):
    """A matrix with a role. Its values come from `initialise`, never from the global generator."""

    role: str

    def __init__(self, inputs: int, outputs: int, role: str) -> None:
        super().__init__(inputs, outputs, bias=False)
        self.role = role

    def reset_parameters(self) -> None:
        """Leaves the memory as it is: `initialise` fills it."""


class Embedding(nn.Embedding):
    role = "embed"

    def reset_parameters(self) -> None:
        """Leaves the memory as it is: `initialise` fills it."""


class RMSNorm(nn.RMSNorm):
    role = "norm"


class Context:
    """Keys and values of what a model has read so far, so that what follows is computed alone.

    `mask_bts`: which of the earlier and present tokens (s) each present one (t) sees; None is causal, for the first tokens.
    """

    def __init__(self) -> None:
        self.mask_bts: Tensor | None = None
        self._seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def extend(self, attention: nn.Module, k_bhtk: Tensor, v_bhtk: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of one layer, the earlier ones first."""
        if attention in self._seen:
            k_bhsk, v_bhsk = self._seen[attention]
            k_bhtk, v_bhtk = torch.cat((k_bhsk, k_bhtk), dim=2), torch.cat((v_bhsk, v_bhtk), dim=2)
        self._seen[attention] = k_bhtk, v_bhtk
        return k_bhtk, v_bhtk

    def select(self, rows: Tensor) -> None:
        """Keeps these rows of the batch, in this order; one may stand several times."""
        self._seen = {attention: (k[rows], v[rows]) for attention, (k, v) in self._seen.items()}


class Attention(nn.Module):
    def __init__(self, shape: Architecture) -> None:
        super().__init__()
        self.heads = shape.heads
        d = shape.hidden
        self.q, self.k, self.v, self.o = (Linear(d, d, f"attn.{name}") for name in "qkvo")

    def forward(self, x_btd: Tensor, cos_tk: Tensor, sin_tk: Tensor, context: Context | None = None) -> Tensor:
        q_bthk, k_bthk, v_bthk = (part(x_btd).unflatten(-1, (self.heads, -1)) for part in (self.q, self.k, self.v))
        q_bthk, k_bthk = rotate(q_bthk, cos_tk, sin_tk), rotate(k_bthk, cos_tk, sin_tk)
        q_bhtk, k_bhtk, v_bhtk = q_bthk.transpose(1, 2), k_bthk.transpose(1, 2), v_bthk.transpose(1, 2)
        mask = None
        if context is not None:
            k_bhtk, v_bhtk = context.extend(self, k_bhtk, v_bhtk)
            mask = None if context.mask_bts is None else context.mask_bts.unsqueeze(1)
        mixed_bhtk = F.scaled_dot_product_attention(q_bhtk, k_bhtk, v_bhtk, attn_mask=mask, is_causal=mask is None)
        out: Tensor = self.o(mixed_bhtk.transpose(1, 2).flatten(2))
        return out


class MLP(nn.Module):
    def __init__(self, shape: Architecture) -> None:
        super().__init__()
        self.activation = F.silu if shape.activation == "silu" else F.gelu
        self.gate = Linear(shape.hidden, shape.mlp, "mlp.gate")
        self.up = Linear(shape.hidden, shape.mlp, "mlp.up")
        self.down = Linear(shape.mlp, shape.hidden, "mlp.down")

    def forward(self, x_btd: Tensor) -> Tensor:
        out: Tensor = self.down(self.activation(self.gate(x_btd)) * self.up(x_btd))
        return out


class Layer(nn.Module):
    def __init__(self, shape: Architecture) -> None:
        super().__init__()
        self.post = shape.norm == "post"
        self.attn_norm = RMSNorm(shape.hidden, eps=shape.eps)
        self.attn = Attention(shape)
        self.mlp_norm = RMSNorm(shape.hidden, eps=shape.eps)
        self.mlp = MLP(shape)

    def forward(self, x_btd: Tensor, cos_tk: Tensor, sin_tk: Tensor, context: Context | None = None) -> Tensor:
        if self.post:
            x_btd = self.attn_norm(x_btd + self.attn(x_btd, cos_tk, sin_tk, context))
            out: Tensor = self.mlp_norm(x_btd + self.mlp(x_btd))
        else:
            x_btd = x_btd + self.attn(self.attn_norm(x_btd), cos_tk, sin_tk, context)
            out = x_btd + self.mlp(self.mlp_norm(x_btd))
        return out


class SummedLoss(nn.Module):
    """`summed_loss` as a module, so that it can be compiled: then no fp32 copy of the logits is written."""

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return summed_loss(logits, targets)


class Llama(nn.Module):
    """The decoder with a language-model head, on the current default device, its matrices not yet initialised."""

    cos_tk: Tensor
    sin_tk: Tensor

    def __init__(self, shape: Architecture, *, positions: int, checkpointing: bool = False) -> None:
        """`positions`: the longest sequence it will see; `checkpointing`: recompute each layer in the backward pass."""
        super().__init__()
        assert shape.vocab is not None, "the vocabulary is resolved before the model is built"
        self.shape, self.checkpointing = shape, checkpointing
        self.embed = Embedding(shape.vocab, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = RMSNorm(shape.hidden, eps=shape.eps)
        self.head = Linear(shape.hidden, shape.vocab, "head")
        self.criterion = SummedLoss()
        if shape.tied:
            self.head.weight = self.embed.weight
        cos_tk, sin_tk = rotations(positions, shape.hidden // shape.heads, shape.rope_base)
        device = self.embed.weight.device
        self.register_buffer("cos_tk", cos_tk.to(device), persistent=False)
        self.register_buffer("sin_tk", sin_tk.to(device), persistent=False)

    def forward(self, tokens_bt: Tensor, targets_bt: Tensor | None = None, chunk: int | None = None) -> Tensor:
        """Logits; or, given targets, the sum of their losses in nats, with the logits of `chunk` tokens alive at a time (None: of all)."""
        x_btd = self.features(tokens_bt)
        if targets_bt is None:
            logits_btv: Tensor = self.head(x_btd)
            return logits_btv
        x_nd, targets_n = x_btd.flatten(0, 1), targets_bt.flatten()
        if chunk is None or chunk >= len(x_nd):
            return self._losses(x_nd, targets_n)
        if torch.is_grad_enabled():
            weights = [weight for weight in self.head.parameters() if weight.requires_grad]
            loss: Tensor = LossInChunks.apply(self._losses, chunk, targets_n, x_nd, *weights)  # type: ignore[no-untyped-call]  # torch's
            return loss
        pieces = zip(torch.split(x_nd, chunk), torch.split(targets_n, chunk), strict=True)
        return torch.stack([self._losses(*piece) for piece in pieces]).sum()

    def features(self, tokens_bt: Tensor, places_bt: Tensor | None = None, context: Context | None = None) -> Tensor:
        """What the head sees, (b, t, d); `places_bt` are the tokens' positions if they do not begin a sequence."""
        x_btd: Tensor = self.embed(tokens_bt)
        places = slice(tokens_bt.shape[1]) if places_bt is None else places_bt
        cos, sin = self.cos_tk[places], self.sin_tk[places]
        recompute = self.checkpointing and torch.is_grad_enabled()
        for layer in self.layers:
            if context is not None:  # plain even if it was compiled: shapes change from one reading to the next
                x_btd = layer.forward(x_btd, cos, sin, context)
            else:
                x_btd = checkpoint(layer, x_btd, cos, sin, use_reentrant=False) if recompute else layer(x_btd, cos, sin)
        out_btd: Tensor = self.norm(x_btd)
        return out_btd

    def _losses(self, x_nd: Tensor, targets_n: Tensor) -> Tensor:
        """Sum of the losses of some tokens, whose logits live no longer than their gradient needs them."""
        loss: Tensor = self.criterion(self.head(x_nd), targets_n)
        return loss


class LossInChunks(torch.autograd.Function):
    """A sum of losses, `chunk` tokens after another: each chunk's gradient is taken at once, so that no logits wait for the backward pass.

    That keeps a gradient of the features and one of the head instead of all logits, and computes nothing twice.
    """

    @staticmethod
    def forward(
        ctx: Any, losses: Callable[[Tensor, Tensor], Tensor], chunk: int, targets_n: Tensor, x_nd: Tensor, *weights: Tensor
    ) -> Tensor:
        total = x_nd.new_zeros((), dtype=torch.float32)
        x_grad_nd = torch.empty_like(x_nd)
        grads = [torch.zeros_like(weight, dtype=torch.float32) for weight in weights]
        pieces = zip(*(torch.split(part, chunk) for part in (x_nd, targets_n, x_grad_nd)), strict=True)
        for x_cd, targets_c, x_grad_cd in pieces:
            with torch.enable_grad():
                own_cd = x_cd.detach().requires_grad_()
                loss = losses(own_cd, targets_c)
            found_cd, *found = torch.autograd.grad(loss, [own_cd, *weights])
            total += loss.detach()
            x_grad_cd.copy_(found_cd)
            for grad, part in zip(grads, found, strict=True):
                grad.add_(part)
        ctx.save_for_backward(x_grad_nd, *grads)
        return total

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> Any:
        """What was found times the gradient of the sum, in fp32: a factor such as 1 / tokens would lose digits in bf16."""
        return None, None, None, *(grad.float() * factor for grad in ctx.saved_tensors)  # autograd rounds to each input's dtype


def summed_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum of the cross entropies of the targets that bear a loss, in nats, computed in fp32."""
    return F.cross_entropy(logits.flatten(0, -2).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum")


def rotations(positions: int, size: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary angles, each (t, k / 2), made on the CPU: the same bits for every device."""
    frequencies_k = base ** (-torch.arange(0, size, 2, dtype=torch.float32, device="cpu") / size)
    angles_tk = torch.outer(torch.arange(positions, dtype=torch.float32, device="cpu"), frequencies_k)
    return angles_tk.cos(), angles_tk.sin()


def rotate(x_bthk: Tensor, cos_tk: Tensor, sin_tk: Tensor) -> Tensor:
    """Rotates the pairs (i, i + k/2) of each head by its position's angles, (t, k/2) or (b, t, k/2), as Hugging Face's weights expect."""
    cos_t1k, sin_t1k = cos_tk.to(x_bthk.dtype).unsqueeze(-2), sin_tk.to(x_bthk.dtype).unsqueeze(-2)
    left, right = x_bthk.chunk(2, dim=-1)
    return torch.cat((left * cos_t1k - right * sin_t1k, right * cos_t1k + left * sin_t1k), dim=-1)


@torch.no_grad()
def initialise(model: Llama, seed: int) -> None:
    """Fills the matrices with values that depend on the seed and their names alone: not on device, order or global generator."""
    for name, module in model.named_modules():
        if not isinstance(module, Linear | Embedding) or module.weight.is_meta or (module is model.head and model.shape.tied):
            continue
        digest = hashlib.sha256(f"{seed} init {name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        values = torch.randn(module.weight.shape, generator=generator, device="cpu")
        module.weight.copy_(values.mul_(model.shape.std(module.role)))
