"""Mix Transformers (MiT-B0 to MiT-B5), the encoders of SegFormer (Xie et al., NeurIPS 2021) and DAFormer.

Why an implementation of our own (newest releases, looked up in November 2026): timm 1.0 has no MiT. The one of
segmentation_models_pytorch 0.6 is in a file under NVIDIA's source code licence; the package brings timm and
huggingface-hub, and asks for Python 3.10. transformers 5.24 is 54 MB, brings tokenizers, asks for Python 3.11, and
calls the tensors otherwise. The network is 100 lines of PyTorch. Its tensors are called as in SegFormer's files. With
the same random weights it computes what those two compute (largest difference of a feature: 1e-6 and 3e-5).
"""

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import nn

# channels of the four stages, and blocks in each, as in the authors' code
MIT = {
    "b0": ((32, 64, 160, 256), (2, 2, 2, 2)),
    "b1": ((64, 128, 320, 512), (2, 2, 2, 2)),
    "b2": ((64, 128, 320, 512), (3, 4, 6, 3)),
    "b3": ((64, 128, 320, 512), (3, 4, 18, 3)),
    "b4": ((64, 128, 320, 512), (3, 8, 27, 3)),
    "b5": ((64, 128, 320, 512), (3, 6, 40, 3)),
}
HEADS, REDUCTIONS, MLP_RATIO = (1, 2, 5, 8), (8, 4, 2, 1), 4
STRIDES = (4, 8, 16, 32)


class MixTransformer(Backbone):
    """A hierarchical transformer without position embedding.

    Outputs ``res2`` .. ``res5`` (N, C, H / stride, W / stride) at strides 4, 8, 16 and 32, each after a LayerNorm.
    Parameters are called as in SegFormer's files of ImageNet weights.
    """

    def __init__(self, name="b5", drop_path=0.1):
        """
        Args:
            name (str): "b0" to "b5".
            drop_path (float): probability that a residual branch of the last block is left out for an image in
                training; it grows linearly from 0 over the blocks.
        """
        super().__init__()
        channels, depths = MIT[name]
        rates = iter([drop_path * i / (sum(depths) - 1) for i in range(sum(depths))])
        self.channels = channels
        for i, depth in enumerate(depths):
            before = channels[i - 1] if i else 3
            kernel, stride = (3, 2) if i else (7, 4)
            self.add_module(f"patch_embed{i + 1}", PatchEmbedding(before, channels[i], kernel, stride))
            blocks = [Block(channels[i], HEADS[i], REDUCTIONS[i], next(rates)) for _ in range(depth)]
            self.add_module(f"block{i + 1}", nn.ModuleList(blocks))
            self.add_module(f"norm{i + 1}", nn.LayerNorm(channels[i], eps=1e-6))
        self.apply(_initialise)

    def forward(self, x):
        """(N, 3, H, W) normalised images -> dict of maps."""
        outputs = {}
        for i in range(4):
            tokens, size = getattr(self, f"patch_embed{i + 1}")(x)
            for block in getattr(self, f"block{i + 1}"):
                tokens = block(tokens, size)
            x = _as_map(getattr(self, f"norm{i + 1}")(tokens), size)
            outputs[f"res{i + 2}"] = x
        return outputs

    def output_shape(self):
        return {f"res{i + 2}": ShapeSpec(channels=c, stride=s) for i, (c, s) in enumerate(zip(self.channels, STRIDES))}

    @property
    def size_divisibility(self):
        return STRIDES[-1]


class PatchEmbedding(nn.Module):
    """Overlapping patches: a convolution, whose map becomes normalised tokens."""

    def __init__(self, before, channels, kernel, stride):
        super().__init__()
        self.proj = nn.Conv2d(before, channels, kernel, stride=stride, padding=kernel // 2)
        self.norm = nn.LayerNorm(channels)  # PyTorch's eps of 1e-5, as in the authors' code

    def forward(self, x):
        """(N, C, H, W) -> tokens (N, H' W', C'), and (H', W')."""
        x = self.proj(x)
        return self.norm(x.flatten(2).transpose(1, 2)), x.shape[-2:]


class Attention(nn.Module):
    """Self-attention whose keys and values come from a map that a strided convolution has made smaller."""

    def __init__(self, channels, heads, reduction):
        super().__init__()
        self.heads, self.reduction = heads, reduction
        self.q, self.kv = nn.Linear(channels, channels), nn.Linear(channels, 2 * channels)
        self.proj = nn.Linear(channels, channels)
        if reduction > 1:
            self.sr = nn.Conv2d(channels, channels, reduction, stride=reduction)
            self.norm = nn.LayerNorm(channels)  # eps 1e-5

    def forward(self, x, size):
        n, length, channels = x.shape
        q = self.q(x).view(n, length, self.heads, -1).transpose(1, 2)
        if self.reduction > 1:
            x = self.norm(self.sr(_as_map(x, size)).flatten(2).transpose(1, 2))
        k, v = self.kv(x).view(n, x.shape[1], 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(n, length, channels))


class MLP(nn.Module):
    """Two linear layers with a depthwise 3 x 3 convolution between them, which tells where a token is."""

    def __init__(self, channels):
        super().__init__()
        hidden = MLP_RATIO * channels
        self.fc1, self.fc2 = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
        convolution = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.dwconv = nn.Sequential(OrderedDict(dwconv=convolution))  # the name "dwconv.dwconv" of SegFormer's files

    def forward(self, x, size):
        x = self.dwconv(_as_map(self.fc1(x), size)).flatten(2).transpose(1, 2)
        return self.fc2(F.gelu(x))


class Block(nn.Module):
    """Attention and MLP, each on normalised tokens and added to them."""

    def __init__(self, channels, heads, reduction, drop_path):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels, eps=1e-6), nn.LayerNorm(channels, eps=1e-6)
        self.attn, self.mlp = Attention(channels, heads, reduction), MLP(channels)
        self.drop_path = drop_path

    def forward(self, x, size):
        x = x + self._kept(self.attn(self.norm1(x), size))
        return x + self._kept(self.mlp(self.norm2(x), size))

    def _kept(self, branch):
        """In training, the branch of some images is left out, and that of the others is scaled up (drop path)."""
        if not (self.training and self.drop_path):
            return branch
        kept = torch.rand(len(branch), 1, 1, device=branch.device) >= self.drop_path
        return branch * (kept / (1 - self.drop_path)).to(branch.dtype)


def _as_map(tokens, size):
    """(N, H W, C) -> (N, C, H, W)."""
    return tokens.transpose(1, 2).reshape(len(tokens), -1, *size)


def _initialise(module):
    """SegFormer's initial weights."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, 0, math.sqrt(2 / fan_out))
        nn.init.zeros_(module.bias)


def segformer_names(state):
    """A MiT's tensors as SegFormer's files call them, which are this module's names; its classifier is left out.

    Args:
        state (dict): names -> tensors of SegFormer's files (``mit_b5.pth``), as segmentation_models_pytorch has them
            too, or of transformers (``nvidia/mit-b5``).

    Returns:
        dict: names -> tensors, without ``head``; what is in neither style keeps its name.
    """
    # a SegFormer that was trained for segmentation has its encoder below a prefix
    for prefix in ("segformer.encoder.", "encoder.", "backbone."):
        if any(k.startswith(prefix) for k in state):
            state = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
    if any(k.startswith("patch_embeddings.") for k in state):
        state = _from_transformers(state)
    return {k: v for k, v in state.items() if not k.startswith(("head.", "classifier."))}


# parts of transformers' names -> SegFormer's
_PARTS = {
    "layer_norm_1": "norm1", "layer_norm_2": "norm2", "attention.self.query": "attn.q", "attention.self.sr": "attn.sr",
    "attention.self.layer_norm": "attn.norm", "attention.output.dense": "attn.proj", "mlp.dense1": "mlp.fc1",
    "mlp.dense2": "mlp.fc2", "mlp.dwconv.dwconv": "mlp.dwconv.dwconv",
}  # fmt: skip


def _from_transformers(state):
    renamed = {}
    for name, value in state.items():
        first, stage, *rest = name.split(".")
        number, leaf = int(stage) + 1, rest[-1]
        if first == "patch_embeddings":
            renamed[f"patch_embed{number}.{'norm' if rest[0] == 'layer_norm' else 'proj'}.{leaf}"] = value
        elif first == "layer_norm":
            renamed[f"norm{number}.{leaf}"] = value
        else:
            block, part = f"block{number}.{rest[0]}", ".".join(rest[1:-1])
            if part == "attention.self.key":  # keys and values are one layer here
                values = state[name.replace(".key.", ".value.")]
                renamed[f"{block}.attn.kv.{leaf}"] = torch.cat([value, values])
            elif part != "attention.self.value":
                renamed[f"{block}.{_PARTS[part]}.{leaf}"] = value
    return renamed


@BACKBONE_REGISTRY.register()
def build_mit_backbone(cfg, input_shape):
    """The :class:`MixTransformer` of ``MODEL.MIT.NAME``."""
    return MixTransformer(cfg.MODEL.MIT.NAME, cfg.MODEL.MIT.DROP_PATH)
