"""MiT encoders: against the published sizes, PyTorch's own attention, and the names in SegFormer's files."""

import math

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone
from torch import nn

from mic_det import add_mic_config
from mic_det.modeling.mit import Block, MixTransformer, segformer_names

# parameters of the encoders without a classifier, counted in transformers 5.24 and segmentation_models_pytorch 0.6
PUBLISHED = {
    "b0": 3_319_392, "b1": 13_151_424, "b2": 24_196_288, "b3": 44_072_128, "b4": 60_842_688, "b5": 81_443_008,
}  # fmt: skip


def of_size(name):
    with torch.device("meta"):  # shapes alone
        return MixTransformer(name, drop_path=0.1)


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name, count", PUBLISHED.items())
def test_as_many_parameters_as_published(name, count):
    assert parameters(of_size(name)) == count


def test_names_and_shapes_are_those_of_segformers_files():
    """Written out by hand for the parts that differ: stages with and without reduction, and both embeddings."""
    found = {k: tuple(v.shape) for k, v in of_size("b5").state_dict().items()}
    for name, shape in {
        "patch_embed1.proj.weight": (64, 3, 7, 7), "patch_embed1.norm.bias": (64,),
        "patch_embed4.proj.weight": (512, 320, 3, 3), "block1.0.norm1.weight": (64,),
        "block1.2.attn.q.weight": (64, 64), "block1.0.attn.kv.weight": (128, 64), "block1.0.attn.kv.bias": (128,),
        "block1.0.attn.sr.weight": (64, 64, 8, 8), "block1.0.attn.norm.weight": (64,),
        "block1.0.attn.proj.bias": (64,), "block2.5.attn.sr.weight": (128, 128, 4, 4),
        "block3.39.mlp.fc1.weight": (1280, 320), "block3.39.mlp.dwconv.dwconv.weight": (1280, 1, 3, 3),
        "block3.39.mlp.fc2.weight": (320, 1280), "block4.2.attn.kv.weight": (1024, 512), "norm4.weight": (512,),
    }.items():  # fmt: skip
        assert found[name] == shape, name
    assert "block4.0.attn.sr.weight" not in found and "block3.40.norm1.weight" not in found
    # four stages: embedding 4, norm 2; a block: norms 4, q 2, kv 2, proj 2, fc1 2, dwconv 2, fc2 2, and sr 2 + norm 2
    assert len(found) == 4 * 6 + 52 * 16 + 49 * 4


def test_maps_have_the_announced_shapes_also_for_odd_sizes():
    model = MixTransformer("b0").eval()
    assert model.size_divisibility == 32
    with torch.no_grad():
        for height, width in ((64, 96), (70, 33)):
            maps = model(torch.randn(2, 3, height, width))
            for name, shape in model.output_shape().items():
                size = (math.ceil(height / shape.stride), math.ceil(width / shape.stride))
                assert maps[name].shape == (2, shape.channels, *size)
    assert [s.channels for s in model.output_shape().values()] == [32, 64, 160, 256]


@pytest.mark.parametrize("heads, reduction", [(2, 1), (4, 2)])
def test_a_block_computes_what_pytorchs_own_layers_compute(heads, reduction):
    """``nn.MultiheadAttention``, with keys from a map that is reduced by hand, and the MLP written out."""
    block, size = Block(8, heads, reduction, 0.0).eval(), (4, 6)
    for p in block.parameters():
        nn.init.normal_(p, std=0.3)
    attention = nn.MultiheadAttention(8, heads, batch_first=True).eval()
    attn = block.attn
    with torch.no_grad():
        attention.in_proj_weight.copy_(torch.cat([attn.q.weight, attn.kv.weight]))
        attention.in_proj_bias.copy_(torch.cat([attn.q.bias, attn.kv.bias]))
        attention.out_proj.weight.copy_(attn.proj.weight)
        attention.out_proj.bias.copy_(attn.proj.bias)
        x = torch.randn(2, 24, 8)
        tokens = F.layer_norm(x, (8,), block.norm1.weight, block.norm1.bias, 1e-6)
        keys = tokens
        if reduction > 1:
            image = tokens.view(2, *size, 8).permute(0, 3, 1, 2)
            keys = F.conv2d(image, attn.sr.weight, attn.sr.bias, stride=reduction).permute(0, 2, 3, 1).reshape(2, -1, 8)
            keys = F.layer_norm(keys, (8,), attn.norm.weight, attn.norm.bias, 1e-5)
        y = x + attention(tokens, keys, keys)[0]
        hidden = F.linear(
            F.layer_norm(y, (8,), block.norm2.weight, block.norm2.bias, 1e-6), *block.mlp.fc1.parameters()
        )
        image = hidden.view(2, *size, 32).permute(0, 3, 1, 2)
        image = F.conv2d(image, *block.mlp.dwconv.dwconv.parameters(), padding=1, groups=32)
        expected = y + F.linear(F.gelu(image.permute(0, 2, 3, 1).reshape(2, 24, 32)), *block.mlp.fc2.parameters())
        torch.testing.assert_close(block(x, size), expected, rtol=1e-4, atol=1e-5)


def test_branches_are_dropped_in_training_alone_and_keep_their_mean():
    block, x = Block(8, 2, 1, 0.4), torch.randn(1, 6, 8).expand(4000, 6, 8)
    with torch.no_grad():
        whole, kept = block.eval()(x, (2, 3))[0], block.train()(x, (2, 3))
        first = block.attn(block.norm1(x[:1]), (2, 3))[0]
        # the first branch alone: a block whose MLP adds nothing
        nn.init.zeros_(block.mlp.fc2.weight)
        nn.init.zeros_(block.mlp.fc2.bias)
        added = block(x, (2, 3)) - x
    assert not torch.allclose(kept[0], kept[1]) or not torch.allclose(kept[1], kept[2])
    dropped = (added == 0).flatten(1).all(dim=1)
    assert dropped.float().mean() == pytest.approx(0.4, abs=0.04)
    torch.testing.assert_close(added[~dropped][0], first / 0.6, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(block.eval()(x, (2, 3))[0] - x[0], first)
    assert whole.shape == (6, 8)


def test_rates_grow_linearly_to_the_last_block():
    model = MixTransformer("b0", drop_path=0.14)
    rates = [b.drop_path for i in range(4) for b in getattr(model, f"block{i + 1}")]
    assert rates == pytest.approx([0.02 * i for i in range(8)])


# ---------------------------------------------------------------------------------------------- files of weights


def transformers_names(state):
    """What transformers calls SegFormer's tensors (huggingface.co/nvidia/mit-b0), written from its list of names."""
    parts = {"norm1": "layer_norm_1", "norm2": "layer_norm_2", "attn.q": "attention.self.query",
             "attn.sr": "attention.self.sr", "attn.norm": "attention.self.layer_norm",
             "attn.proj": "attention.output.dense", "mlp.fc1": "mlp.dense1", "mlp.fc2": "mlp.dense2",
             "mlp.dwconv.dwconv": "mlp.dwconv.dwconv"}  # fmt: skip
    found = {"classifier.weight": torch.zeros(1000, 256), "classifier.bias": torch.zeros(1000)}
    for name, value in state.items():
        head, *middle, leaf = name.split(".")
        stage = int(head[-1]) - 1
        if head.startswith("patch_embed"):
            part = "layer_norm" if middle[0] == "norm" else "proj"
            found[f"segformer.encoder.patch_embeddings.{stage}.{part}.{leaf}"] = value
        elif head.startswith("norm"):
            found[f"segformer.encoder.layer_norm.{stage}.{leaf}"] = value
        else:
            block = f"segformer.encoder.block.{stage}.{middle[0]}"
            part = ".".join(middle[1:])
            if part == "attn.kv":
                key, values = value.chunk(2)
                found[f"{block}.attention.self.key.{leaf}"] = key
                found[f"{block}.attention.self.value.{leaf}"] = values
            else:
                found[f"{block}.{parts[part]}.{leaf}"] = value
    return found


def test_names_of_transformers_are_understood():
    own = MixTransformer("b0").state_dict()
    found = segformer_names(transformers_names(own))
    assert found.keys() == own.keys() and all(torch.equal(found[k], own[k]) for k in own)


def test_it_is_a_backbone_of_detectron2():
    cfg = get_cfg()
    add_mic_config(cfg)
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.MIT.NAME, cfg.MODEL.MIT.DROP_PATH = "build_mit_backbone", "b1", 0.0
    backbone = build_backbone(cfg)
    assert parameters(backbone) == parameters(of_size("b1"))
    assert not any(b.drop_path for b in backbone.block4)
