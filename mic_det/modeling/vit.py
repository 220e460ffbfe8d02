"""ViTDet: Detectron2's plain ViT and simple feature pyramid, by config; rotary positions for DINOv3's weights.

Detectron2's classes need timm, which is imported where a model is built, and only then.
"""

import math
import warnings
from functools import partial

import torch
import torch.nn.functional as F
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.backbone.vit import Attention, SimpleFeaturePyramid, ViT, get_vit_lr_decay_rate
from torch import nn

from .timm_backbone import import_timm

PATCH = 16
ROTARY_BASE = 100.0  # of DINOv3
SCALES = (4.0, 2.0, 1.0, 0.5)  # of the pyramid's levels p2 to p5, against the ViT's map


class PlainViT(ViT):
    """Detectron2's ViT, whose attention without relative positions is PyTorch's fused one."""

    def __init__(self, *, rotary=False, freeze_at=0, **others):
        """
        Args:
            rotary (bool): rotary position embeddings, as in DINOv3; then there are no absolute ones.
            freeze_at (int): 1 = patch embedding and positions are not trained; n = nor are the first n - 1 blocks.
            others: Detectron2's arguments.
        """
        super().__init__(use_abs_pos=not rotary, **others)
        self.rotary = rotary
        if not others.get("use_rel_pos"):
            for block in self.blocks:
                block.attn = FusedAttention(block.attn, rotary)
        frozen = [*self.patch_embed.parameters(), *([] if rotary else [self.pos_embed])] if freeze_at else []
        for block in self.blocks[: max(freeze_at - 1, 0)]:
            frozen += block.parameters()
        for p in frozen:
            p.requires_grad_(False)

    def forward(self, x):
        """(N, 3, H, W) normalised images -> dict with one map (N, C, H / 16, W / 16)."""
        if self.rotary:
            for block in self.blocks:
                block.attn.grid = (x.shape[-2] // PATCH, x.shape[-1] // PATCH)
        return super().forward(x)


class FusedAttention(nn.Module):
    """Detectron2's ViT attention without relative positions, by PyTorch's fused kernel; rotary where asked for.

    It has the parameters of the layer that it replaces, and their names.
    """

    def __init__(self, layer: Attention, rotary):
        super().__init__()
        self.num_heads, self.qkv, self.proj = layer.num_heads, layer.qkv, layer.proj
        self.rotary, self.grid = rotary, None  # height and width of the whole image, in patches

    def forward(self, x):
        """(N, H, W, C) -> the same; N images, or N windows of them."""
        n, height, width, channels = x.shape
        qkv = self.qkv(x).reshape(n, height * width, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        if self.rotary:
            angles = rotary_angles((height, width), self.grid, q.shape[-1], x.device)
            q, k = rotated(q, angles), rotated(k, angles)
        x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, height, width, channels)
        return self.proj(x)


def rotary_angles(size, grid, channels, device=None):
    """The angles of DINOv3's rotary embeddings for the patches of an image, or of a window of it.

    The image's height and width are both [-1, 1], so a patch's step is 2 / number of patches. Attention sees only
    differences of angles: it does not matter where in the image a window begins.

    Args:
        size (int, int): height and width of the window, in patches.
        grid (int, int): height and width of the whole image, in patches.
        channels (int): D, of one head; a multiple of 4.

    Returns:
        Tensor: (height * width, D / 2): the angles of D / 4 frequencies of y, then of x.
    """
    periods = ROTARY_BASE ** (torch.arange(channels // 4, device=device) / (channels // 4))
    y, x = ((2 * torch.arange(n, device=device) + 1) / whole - 1 for n, whole in zip(size, grid))
    y, x = (2 * math.pi * v[:, None] / periods for v in (y, x))
    return torch.cat([y[:, None].expand(-1, len(x), -1), x[None].expand(len(y), -1, -1)], dim=2).flatten(0, 1)


def rotated(x, angles):
    """Vectors (..., L, D) whose channels i and i + D / 2 are turned by the angle (L, D / 2) of i."""
    a, b = x.float().chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)


class ViTPyramid(SimpleFeaturePyramid):
    """Detectron2's simple feature pyramid, which also says by what an image's sides must be divisible."""

    @property
    def size_divisibility(self):
        return self._size_divisibility


def layer_lr_factor(name, decay, depth):
    """Factor of the learning rate of a parameter: Detectron2's rule, for models and for MIC's student.

    Args:
        name (str): of the parameter.
        decay (float): factor from each block to the one before it.
        depth (int): number of blocks.
    """
    if decay == 1:
        return 1.0
    return get_vit_lr_decay_rate(name[name.find("backbone.") :] if "backbone." in name else name, decay, depth)


@BACKBONE_REGISTRY.register()
def build_vitdet_backbone(cfg, input_shape):
    """The ViT of ``MODEL.VIT`` below a simple feature pyramid (levels p2 to p6)."""
    import_timm("MODEL.BACKBONE.NAME build_vitdet_backbone")
    keys, fpn = cfg.MODEL.VIT, cfg.MODEL.FPN
    rotary = keys.POSITIONS == "rotary"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Importing from timm.models.layers")  # Detectron2 does so
        net = PlainViT(
            rotary=rotary, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
            img_size=keys.IMAGE_SIZE, patch_size=PATCH, embed_dim=keys.EMBED_DIM, depth=keys.DEPTH,
            num_heads=keys.NUM_HEADS, drop_path_rate=keys.DROP_PATH,
            norm_layer=partial(nn.LayerNorm, eps=1e-5 if rotary else 1e-6),  # DINOv3's, and everyone else's
            use_rel_pos=keys.POSITIONS == "relative", window_size=keys.WINDOW_SIZE,
            window_block_indexes=[i for i in range(keys.DEPTH) if i not in keys.GLOBAL_BLOCKS],
            pretrain_img_size=keys.PRETRAIN_SIZE,
        )  # fmt: skip
    return ViTPyramid(net, "last_feat", fpn.OUT_CHANNELS, SCALES, top_block=LastLevelMaxPool(), norm=fpn.NORM)
