"""Weights of plain ViTs under the names of Detectron2's ViT: MAE, DINO, DINOv2, DINOv3, timm and transformers.

What Detectron2's ViT does not have is folded into its layers or left out. LayerScale is a factor of each output channel
of two linear layers. The class token and the register tokens are left out: a detector has patches alone.
"""

import logging
import re

import torch
import torch.nn.functional as F

from ..errors import CheckpointError

logger = logging.getLogger(__name__)

# parts of a block's names in transformers -> the authors' names, which are Detectron2's, too
_PARTS = {
    "attention.output.dense": "attn.proj", "attention.o_proj": "attn.proj",
    "layer_scale1": "ls1", "layer_scale2": "ls2", "layernorm_before": "norm1", "layernorm_after": "norm2",
    "intermediate.dense": "mlp.fc1", "output.dense": "mlp.fc2", "mlp.up_proj": "mlp.fc1", "mlp.down_proj": "mlp.fc2",
}  # fmt: skip
_TOP = {
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "embeddings.patch_embeddings": "patch_embed.proj",
    "embeddings.register_tokens": "register_tokens",
}
_QUERY = re.compile(r"(blocks\.\d+)\.(?:attention\.attention|attention|attn)\.(query|q_proj)\.weight")
_OTHERS = {"query": ("key", "value"), "q_proj": ("k_proj", "v_proj")}
# tokens and classifiers: nothing of them is in a detector
_LEFT_OUT = re.compile(
    r"(cls_token|mask_token|register_tokens|storage_tokens|reg_token|embeddings\.|norm\.|layernorm\.|fc_norm\.|head|"
    r"pooler|classifier|decoder|rope|local_cls_norm|mask_embed)"
)


def vit_names(state, vit, path):
    """The tensors of a plain ViT's file for Detectron2's ViT.

    Args:
        state (dict): names -> tensors.
        vit (ViT): the model.
        path (str): the file, for messages.

    Returns:
        dict: names without a prefix -> tensors.

    Raises:
        CheckpointError: for a ViT with gated MLPs, or where positions do not go with the model's
            ``MODEL.VIT.POSITIONS``.
    """
    state = _authors_names(state)
    gated = next((k for k in state if re.search(r"mlp\.(w12|w1|weights_in|gate_proj)\.", k)), None)
    if gated:
        raise CheckpointError(
            f"{path} is a ViT with gated MLPs ({gated}), which Detectron2's ViT lacks: use the size S, B or L."
        )
    _check_positions(state, vit, path)
    tokens = [k for k in state if "register" in k or k in ("storage_tokens", "reg_token")]
    if tokens:
        logger.info(
            "%s: its %d register tokens are left out, because Detectron2's ViT has patches alone. Its attention was "
            "trained with them: train the blocks, too, rather than freeze them.", path, state[tokens[0]].shape[1],
        )  # fmt: skip
    scales = {k: v for k, v in state.items() if re.search(r"\.ls[12]\.|\.gamma_[12]$", k)}
    found = {k: v for k, v in state.items() if k not in scales and not _LEFT_OUT.match(k)}
    _mask_key_bias(found)
    _fold(scales, found)
    if "patch_embed.proj.weight" in found:
        found["patch_embed.proj.weight"] = _patches(found["patch_embed.proj.weight"], vit, path)
    if "pos_embed" in found:
        found["pos_embed"] = _positions(found["pos_embed"], vit, path)
    return found


def _authors_names(state):
    """The names of timm and of the authors for those of transformers; others stay as they are."""
    for prefix in ("backbone.", "vit.", "dinov2.", "dinov2_with_registers.", "dinov3_vit."):
        if any(k.startswith((f"{prefix}embeddings.", f"{prefix}blocks.")) for k in state):
            state = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
    renamed = {}
    for name, value in state.items():
        name = re.sub(r"^(?:model\.|encoder\.)?layer\.(\d+)\.", r"blocks.\1.", name)
        name = re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", name)  # DINOv2's chunks of blocks
        block, rest = re.match(r"(blocks\.\d+\.)?(.*)", name).groups()
        names = _PARTS if block else _TOP
        part, dot, leaf = rest.rpartition(".")
        if rest in names:
            rest = names[rest]
        elif part in names:
            rest = f"{names[part]}.{'gamma' if leaf == 'lambda1' else leaf}"
        renamed[(block or "") + rest] = value
    return _joined_qkv(renamed)


def _joined_qkv(state):
    """Queries, keys and values as one layer. Where a bias of keys is missing, it is 0 (DINOv3)."""
    for name in [k for k in state if _QUERY.fullmatch(k)]:
        block, query = _QUERY.fullmatch(name).groups()
        stem = name[: -len(f"{query}.weight")]
        parts = [stem + x for x in (query, *_OTHERS[query])]
        state[f"{block}.attn.qkv.weight"] = torch.cat([state.pop(f"{x}.weight") for x in parts])
        biases = [state.pop(f"{x}.bias", None) for x in parts]
        if any(b is not None for b in biases):
            like = next(b for b in biases if b is not None)
            biases = [torch.zeros_like(like) if b is None else b for b in biases]
            state[f"{block}.attn.qkv.bias"] = torch.cat(biases)
    if "blocks.0.gamma_1" in state:  # timm's DINOv3, whose files have no biases where all are 0
        for name in [k for k in state if k.endswith("attn.qkv.weight")]:
            stem = name[: -len("qkv.weight")]
            zeros = state[name].new_zeros(len(state[name]) // 3)
            q, v = (state.pop(f"{stem}{x}_bias", zeros) for x in "qv")
            state[f"{stem}qkv.bias"] = torch.cat([q, zeros, v])
    return state


def _check_positions(state, vit, path):
    rotary, absolute = getattr(vit, "rotary", False), "pos_embed" in state
    if rotary and absolute:
        raise CheckpointError(
            f"{path} has absolute position embeddings, but MODEL.VIT.POSITIONS is rotary: use relative or absolute."
        )
    if not rotary and not absolute and "patch_embed.proj.weight" in state:
        raise CheckpointError(
            f"{path} has no absolute position embeddings. For DINOv3, whose positions are rotary, set "
            "MODEL.VIT.POSITIONS rotary."
        )


def _mask_key_bias(state):
    """DINOv3's layers multiply the bias of qkv by a mask, which is 0 for the keys."""
    for name in [k for k in state if k.endswith("qkv.bias_mask")]:
        del state[name]
        bias = name[: -len("_mask")]
        state[bias] = state[bias].clone()
        third = len(state[bias]) // 3
        state[bias][third : 2 * third] = 0


def _fold(scales, state):
    """LayerScale: y = g * (W x + b) = (g W) x + g b."""
    for name, scale in scales.items():
        block, which = re.match(r"(blocks\.\d+)\.(?:ls|gamma_)([12])", name).groups()
        layer = f"{block}.{'attn.proj' if which == '1' else 'mlp.fc2'}"
        state[f"{layer}.weight"] = scale[:, None] * state[f"{layer}.weight"]
        state[f"{layer}.bias"] = scale * state[f"{layer}.bias"]


def _patches(weight, vit, path):
    """A patch embedding for the model's patches."""
    size = vit.patch_embed.proj.weight.shape[-1]
    if weight.shape[-1] == size:
        return weight
    logger.info("%s has patches of %d pixels: their embedding is resized to %d.", path, weight.shape[-1], size)
    return resized_patch_embedding(weight, size)


def resized_patch_embedding(weight, size):
    """A patch embedding (C, 3, P, P) for patches of another size (Beyer et al., "FlexiViT", CVPR 2023).

    A patch that is resized bilinearly from P to ``size`` pixels has the embedding that it had. Where the new patches
    are smaller, this holds in the least squares sense.
    """
    old = weight.shape[-1]
    unit = torch.eye(old, dtype=torch.float64)[None, None]
    # of one side: (size, old); the resizing of a patch is R x R^T
    resize = F.interpolate(unit, size=(size, old), mode="bilinear", align_corners=False, antialias=size < old)[0, 0]
    inverse = torch.linalg.pinv(resize.T)
    return (inverse @ weight.double() @ inverse.T).to(weight.dtype)


def _positions(embedding, vit, path):
    """Position embeddings (1, 1 + N, C) for the model's number of patches; the first one, which is not used, is kept.

    Raises:
        CheckpointError: where they are of no square grid.
    """
    count = embedding.shape[1]
    first = 0 if _square_side(count) else 1
    side, wanted = _square_side(count - first), _square_side(vit.pos_embed.shape[1] - 1)
    if not side:
        raise CheckpointError(f"{path} has {count} position embeddings, which are of no square grid of patches.")
    token, grid = embedding[:, :first], embedding[:, first:]
    if not first:
        token = embedding.new_zeros(1, 1, embedding.shape[2])
    if side != wanted:
        logger.info("%s has %d x %d position embeddings, which are interpolated to %d x %d. MODEL.VIT.PRETRAIN_SIZE %d "
                    "keeps them.", path, side, side, wanted, wanted, side * 16)  # fmt: skip
        grid = grid.reshape(1, side, side, -1).permute(0, 3, 1, 2)
        grid = F.interpolate(grid.float(), (wanted, wanted), mode="bicubic", antialias=wanted < side)
        grid = grid.permute(0, 2, 3, 1).flatten(1, 2).to(embedding.dtype)
    return torch.cat([token, grid], dim=1)


def _square_side(number):
    """The side of a square grid; 0 where the number is no square."""
    side = round(number**0.5)
    return side if side * side == number else 0
