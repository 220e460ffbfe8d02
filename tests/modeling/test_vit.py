"""ViTDet: against timm's ViTs, and weights of the real names and shapes."""

import re

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import build_model
from torch import nn

from helpers.models import random_image, tiny_cfg
from mic_det.checkpoint.checkpointer import MICCheckpointer
from mic_det.engine.optimizer import build_fused_optimizer
from mic_det.errors import CheckpointError, ConfigError
from mic_det.modeling.vit import PlainViT
from mic_det.modeling.vit_weights import resized_patch_embedding, vit_names

timm = pytest.importorskip("timm")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning")]

WIDTH, DEPTH, HEADS = 24, 3, 2
TINY = {
    "MODEL__BACKBONE__NAME": "build_vitdet_backbone", "MODEL__BACKBONE__FREEZE_AT": 0, "MODEL__FPN__NORM": "LN",
    "MODEL__VIT__EMBED_DIM": WIDTH, "MODEL__VIT__DEPTH": DEPTH, "MODEL__VIT__NUM_HEADS": HEADS,
    "MODEL__VIT__GLOBAL_BLOCKS": (0, 2), "MODEL__VIT__WINDOW_SIZE": 2, "INPUT__FORMAT": "RGB",
    "MODEL__PIXEL_MEAN": [123.675, 116.28, 103.53], "MODEL__PIXEL_STD": [58.395, 57.12, 57.375],
}  # fmt: skip


def tiny(seed=0, **keys):
    torch.manual_seed(seed)
    return build_model(tiny_cfg(**{**TINY, "MODEL__META_ARCHITECTURE": "GeneralizedRCNN", **keys})).eval()


def randomised(module, std=0.2, seed=5):
    torch.manual_seed(seed)
    for p in module.parameters():
        nn.init.normal_(p, std=std)
    return module.eval()


# ------------------------------------------------------------------------------------------- the network


@pytest.mark.parametrize("rotary, window", [(False, 0), (False, 3), (True, 0)])
def test_features_are_those_of_timms_vit_without_tokens(rotary, window):
    """DINOv2's and DINOv3's networks in timm, without class token, registers and last norm, on a 6 x 9 grid.

    With windows of 3 x 3, timm sees each window as an image of its own. Rotary positions then need the scale of the
    whole image, so that case has no counterpart in timm: see the next test.
    """
    settings = dict(embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, num_classes=0, class_token=False, global_pool="")
    if rotary:
        theirs = timm.create_model("vit_small_patch16_dinov3", num_reg_tokens=0, pretrained=False, **settings)
    else:
        theirs = timm.create_model(
            "vit_small_patch14_dinov2", patch_size=16, img_size=96, dynamic_img_size=True, pretrained=False, **settings
        )
    theirs.norm = nn.Identity()
    randomised(theirs)
    ours = PlainViT(
        rotary=rotary, img_size=96, pretrain_img_size=96, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS,
        norm_layer=lambda dim: nn.LayerNorm(dim, eps=1e-5 if rotary else 1e-6), window_size=window,
        window_block_indexes=range(DEPTH),
    ).eval()  # fmt: skip
    found = vit_names(theirs.state_dict(), ours, "file")
    ours.load_state_dict(found, strict=True)
    x = torch.randn(2, 3, 96, 96 if window or not rotary else 144)
    with torch.no_grad():
        if window:  # patches of each window, with their positions of the whole image
            tokens = theirs.patch_embed.proj(x) + theirs.pos_embed.transpose(1, 2).reshape(1, WIDTH, 6, 6)
            windows = tokens.unfold(2, 3, 3).unfold(3, 3, 3).permute(0, 2, 3, 4, 5, 1).reshape(8, 9, WIDTH)
            expected = (
                theirs.blocks(windows).view(2, 2, 2, 3, 3, WIDTH).permute(0, 5, 1, 3, 2, 4).reshape(2, WIDTH, 6, 6)
            )
        else:
            expected = theirs.forward_features(x)
            expected = expected.transpose(1, 2).reshape(2, WIDTH, 6, -1)
        found = ours(x)["last_feat"]
    assert expected.std() > 0.5
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_rotary_attention_in_a_window_sees_the_distances_of_the_whole_image():
    """Attention of one block within a window = attention over the image with all other windows hidden."""
    vit = PlainViT(rotary=True, img_size=96, embed_dim=WIDTH, depth=1, num_heads=HEADS, window_size=3,
                   window_block_indexes=[0])  # fmt: skip
    attn = randomised(vit, std=0.5).blocks[0].attn
    attn.grid = (6, 6)
    tokens = torch.randn(1, 6, 6, WIDTH)
    with torch.no_grad():
        found = attn(tokens[:, 3:, :3])
        qkv = attn.qkv(tokens).reshape(36, 3, HEADS, WIDTH // HEADS)
        place = torch.stack(torch.meshgrid(*[(torch.arange(6) + 0.5) / 3 - 1] * 2, indexing="ij"), -1).view(36, 2)
        d = WIDTH // HEADS
        periods = torch.tensor([100 ** (2 * i / (d // 2)) for i in range(d // 4)])
        angle = (2 * torch.pi * place[:, :, None] / periods).flatten(1)  # (36, D / 2), y first
        turn = torch.polar(torch.ones_like(angle), angle)[:, None]
        q, k = (torch.complex(*qkv[:, i].chunk(2, dim=-1)) * turn for i in (0, 1))
        logits = torch.einsum("ihd,jhd->hij", q, k.conj()).real / d**0.5
        inside = torch.zeros(6, 6, dtype=torch.bool)
        inside[3:, :3] = True
        logits = logits.masked_fill(~inside.view(36), -torch.inf)
        expected = attn.proj(torch.einsum("hij,jhd->ihd", logits.softmax(-1), qkv[:, 2]).reshape(6, 6, WIDTH))[3:, :3]
    torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-5)


def test_a_pyramid_of_five_levels_for_images_of_any_size():
    model = tiny()
    assert {k: x.stride for k, x in model.backbone.output_shape().items()} == dict(p2=4, p3=8, p4=16, p5=32, p6=64)
    images = model.preprocess_image([{"image": random_image((70, 101))}])
    assert images.tensor.shape[-2:] == (96, 128)
    with torch.no_grad():
        maps = model.backbone(images.tensor)
    assert [tuple(maps[f"p{i}"].shape[-2:]) for i in range(2, 7)] == [(24, 32), (12, 16), (6, 8), (3, 4), (2, 2)]
    assert "rel_pos_h" in dict(model.backbone.net.blocks[0].attn.named_parameters())  # published: relative positions


@pytest.mark.parametrize("freeze_at", [0, 1, 3])
def test_first_blocks_are_frozen(freeze_at):
    net = tiny(MODEL__BACKBONE__FREEZE_AT=freeze_at).backbone.net
    frozen = ("patch_embed.", "pos_embed", "blocks.0.", "blocks.1.")[: {0: 0, 1: 2, 3: 4}[freeze_at]] or ("?",)
    assert all(p.requires_grad == (not k.startswith(frozen)) for k, p in net.named_parameters())


# ------------------------------------------------------------------------------------------- the rates


@pytest.mark.parametrize("kind", ["MIC", "GeneralizedRCNN"])
def test_rates_decay_from_block_to_block(kind):
    cfg = tiny_cfg(**{**TINY, "MODEL__META_ARCHITECTURE": kind, "SOLVER__OPTIMIZER": "AdamW", "SOLVER__BASE_LR": 0.1,
                      "SOLVER__LAYER_LR_DECAY": 0.5, "SOLVER__WEIGHT_DECAY": 0.05})  # fmt: skip
    model = build_model(cfg)
    optimizer = build_fused_optimizer(cfg, model)
    rates = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    detector = model.student if kind == "MIC" else model
    expected = {"backbone.net.pos_embed": (0.1 / 16, 0.0), "backbone.net.patch_embed.proj.weight": (0.1 / 16, 0.05),
                "backbone.net.blocks.0.attn.qkv.weight": (0.1 / 8, 0.05),
                "backbone.net.blocks.1.mlp.fc1.bias": (0.025, 0.05),
                "backbone.net.blocks.2.attn.proj.weight": (0.05, 0.05), "backbone.simfp_2.0.weight": (0.1, 0.05),
                "roi_heads.box_head.fc1.weight": (0.1, 0.05)}  # fmt: skip
    own = dict(detector.named_parameters())
    for name, (rate, decay) in expected.items():
        assert rates[id(own[name])] == (pytest.approx(rate), decay), name
    assert len(rates) == len(own)


@pytest.mark.parametrize("keys, message", [
    ({"SOLVER.LAYER_LR_DECAY": 0.7}, "SOLVER.LAYER_LR_DECAY is 0.7.*SOLVER.OPTIMIZER SGD"),
    ({"SOLVER.LAYER_LR_DECAY": 0.7, "SOLVER.OPTIMIZER": "AdamW", "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone"},
     "MODEL.BACKBONE.NAME is build_resnet_fpn_backbone"),
    ({"MODEL.VIT.GLOBAL_BLOCKS": (0, 3)}, "MODEL.VIT.DEPTH is 3: name blocks from 0 to 2"),
    ({"MODEL.VIT.NUM_HEADS": 5}, "channels of a head"),
    ({"MODEL.VIT.NUM_HEADS": 4, "MODEL.VIT.POSITIONS": "rotary"}, "multiple of 4"),
])  # fmt: skip
def test_settings_that_cannot_work_are_refused(keys, message):
    from mic_det.config import validate_mic_config

    with pytest.raises(ConfigError, match=message):
        validate_mic_config(tiny_cfg(**{**TINY, **{k.replace(".", "__"): v for k, v in keys.items()}}))


# ------------------------------------------------------------------------------------------- files of weights

S = 384  # ViT-S, whose real shapes the files below have


def authors_file(version, blocks=12):
    """Names and shapes of the authors' files: dinov2_vits14(_reg4)_pretrain.pth, dinov3_vits16_pretrain.pth, MAE's."""
    patch = 14 if version.startswith("dinov2") else 16
    shapes = {"cls_token": (1, 1, S), "patch_embed.proj.weight": (S, 3, patch, patch), "patch_embed.proj.bias": (S,),
              "norm.weight": (S,), "norm.bias": (S,)}  # fmt: skip
    if version != "dinov3":
        shapes["pos_embed"] = (1, 1370 if patch == 14 else 197, S)
    if version.startswith("dino"):
        shapes["mask_token"] = (1, S)
    if version == "dinov2_reg4":
        shapes["register_tokens"] = (1, 4, S)
    if version == "dinov3":
        shapes.update({"storage_tokens": (1, 4, S), "mask_token": (1, S), "rope_embed.periods": (16,)})
    for i in range(blocks):
        block = {"norm1.weight": (S,), "norm1.bias": (S,), "attn.qkv.weight": (3 * S, S), "attn.qkv.bias": (3 * S,),
                 "attn.proj.weight": (S, S), "attn.proj.bias": (S,), "norm2.weight": (S,), "norm2.bias": (S,),
                 "mlp.fc1.weight": (4 * S, S), "mlp.fc1.bias": (4 * S,), "mlp.fc2.weight": (S, 4 * S),
                 "mlp.fc2.bias": (S,)}  # fmt: skip
        if version.startswith("dino"):
            block.update({"ls1.gamma": (S,), "ls2.gamma": (S,)})
        if version == "dinov3":
            block["attn.qkv.bias_mask"] = (3 * S,)
        shapes.update({f"blocks.{i}.{k}": v for k, v in block.items()})
    generator = torch.Generator().manual_seed(7)
    return {k: torch.randn(v, generator=generator) * 0.05 for k, v in shapes.items()}


def transformers_file(version):
    """Names of transformers: facebook/dinov2-small, facebook/dinov3-vits16-pretrain-lvd1689m, facebook/vit-mae."""
    old = version != "dinov3"
    parts = {"attn.proj": "attention.output.dense" if old else "attention.o_proj",
             "ls1": "layer_scale1", "ls2": "layer_scale2"}  # fmt: skip
    if version == "mae":
        parts.update({"norm1": "layernorm_before", "norm2": "layernorm_after", "mlp.fc1": "intermediate.dense",
                      "mlp.fc2": "output.dense"})  # fmt: skip
    if version == "dinov3":
        parts.update({"mlp.fc1": "mlp.up_proj", "mlp.fc2": "mlp.down_proj"})
    found = {}
    for name, value in authors_file(version).items():
        if name.startswith("patch_embed.proj"):
            name = name.replace("patch_embed.proj", "embeddings.patch_embeddings" + (".projection" if old else ""))
        elif name == "pos_embed":
            name = "embeddings.position_embeddings"
        elif name.endswith("_token"):
            name = f"embeddings.{name}"
        elif name in ("storage_tokens", "register_tokens"):
            name = "embeddings.register_tokens"
        elif name.startswith("norm."):
            name = name.replace("norm.", "layernorm.") if old else name
        elif name.startswith("rope") or name.endswith("bias_mask"):
            continue
        else:
            _, i, rest = name.split(".", 2)
            block = f"encoder.layer.{i}." if old else f"layer.{i}."
            if rest.startswith("attn.qkv"):
                words = ("query", "key", "value") if old else ("q_proj", "k_proj", "v_proj")
                for word, third in zip(words, value.chunk(3)):
                    if old or word != "k_proj" or not rest.endswith("bias"):
                        where = "attention.attention." if old else "attention."
                        found[f"{block}{where}{word}.{rest.rsplit('.', 1)[1]}"] = third
                continue
            part, leaf = rest.rsplit(".", 1)
            name = f"{block}{parts.get(part, part)}.{'lambda1' if leaf == 'gamma' else leaf}"
        found[name] = value
    return {f"vit.{k}": v for k, v in found.items()} if version == "mae" else found


@pytest.fixture(scope="module")
def small():
    """Detectron2's ViT of size S, with absolute (37 x 37 and 14 x 14) and with rotary positions."""
    settings = dict(embed_dim=S, depth=12, num_heads=6)
    return {
        "dinov2": PlainViT(pretrain_img_size=592, **settings), "mae": PlainViT(**settings),
        "dinov3": PlainViT(rotary=True, **settings),
    }  # fmt: skip


@pytest.mark.parametrize("version, names", [
    (version, names) for version in ("dinov2", "dinov2_reg4", "dinov3", "mae")
    for names in (authors_file, transformers_file)
])  # fmt: skip
def test_every_tensor_of_the_model_is_filled_from_the_real_names_and_shapes(small, version, names, caplog):
    caplog.set_level("INFO")
    model = small[version.split("_")[0]]
    found = vit_names(names(version), model, "the file")
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in model.state_dict().items()}
    file = authors_file(version)
    dino = version.startswith("dino")
    for block in (0, 11):  # LayerScale by hand
        scale = file[f"blocks.{block}.ls2.gamma"] if dino else torch.ones(S)
        expected = torch.diag(scale) @ file[f"blocks.{block}.mlp.fc2.weight"]
        torch.testing.assert_close(found[f"blocks.{block}.mlp.fc2.weight"], expected)
        bias = file[f"blocks.{block}.attn.qkv.bias"].clone()
        if version == "dinov3":  # its keys have no bias
            bias[S : 2 * S] = 0
        assert torch.equal(found[f"blocks.{block}.attn.qkv.bias"], bias)
        assert torch.equal(found[f"blocks.{block}.attn.qkv.weight"], file[f"blocks.{block}.attn.qkv.weight"])
        assert torch.equal(found[f"blocks.{block}.norm2.bias"], file[f"blocks.{block}.norm2.bias"])
    if version != "dinov3":
        assert torch.equal(found["pos_embed"], file["pos_embed"])
    registers = version in ("dinov2_reg4", "dinov3")
    assert ("its 4 register tokens are left out" in caplog.text) == registers


def test_positions_of_another_grid_are_interpolated_as_timm_does_it(small, caplog):
    from timm.layers import resample_abs_pos_embed

    caplog.set_level("INFO")
    file = authors_file("dinov2", blocks=0)
    found = vit_names(file, small["mae"], "the file")["pos_embed"]
    expected = resample_abs_pos_embed(file["pos_embed"], new_size=[14, 14], num_prefix_tokens=1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert "37 x 37 position embeddings, which are interpolated to 14 x 14. MODEL.VIT.PRETRAIN_SIZE 592" in caplog.text
    with pytest.raises(CheckpointError, match="1234 position embeddings, which are of no square"):
        vit_names({**file, "pos_embed": torch.zeros(1, 1234, S)}, small["mae"], "the file")


def test_a_patch_that_is_enlarged_keeps_its_embedding():
    weight, patches = torch.randn(8, 3, 14, 14), torch.randn(5, 3, 14, 14)
    larger = F.interpolate(patches, size=(16, 16), mode="bilinear", align_corners=False)
    found = F.conv2d(larger, resized_patch_embedding(weight, 16))
    torch.testing.assert_close(found, F.conv2d(patches, weight), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("version, positions, message", [
    ("dinov3", "relative", "set MODEL.VIT.POSITIONS rotary"),
    ("dinov2", "rotary", "has absolute position embeddings, but MODEL.VIT.POSITIONS is rotary"),
])  # fmt: skip
def test_other_positions_are_refused(small, version, positions, message):
    with pytest.raises(CheckpointError, match=message):
        vit_names(authors_file(version, 1), small["dinov3" if positions == "rotary" else "mae"], "the file")


def test_gated_mlps_are_refused(small):
    state = {**authors_file("dinov2", 1), "blocks.0.mlp.w12.weight": torch.zeros(2 * S, S)}
    with pytest.raises(CheckpointError, match=r"gated MLPs \(blocks.0.mlp.w12.weight\)"):
        vit_names(state, small["dinov2"], "the file")


@pytest.mark.parametrize("positions", ["relative", "rotary"])
def test_a_file_starts_student_and_teacher_and_a_checkpoint_resumes_them(tmp_path, caplog, positions):
    keys = {**TINY, "MODEL__VIT__POSITIONS": positions, "MODEL__META_ARCHITECTURE": "MIC"}
    model, state = tiny(**keys), {}
    for k, v in model.student.backbone.net.state_dict().items():
        if "rel_pos" not in k:
            state[k] = torch.randn_like(v)
    torch.save({"teacher": 0, "model": {**state, "cls_token": torch.zeros(1, 1, WIDTH)}}, tmp_path / "vit.pth")
    caplog.set_level("INFO")
    MICCheckpointer(model).load(str(tmp_path / "vit.pth"))
    assert re.search(r"fills (\d+) of the backbone's \1 tensors", caplog.text)
    for part in (model.student, model.teacher):
        own = part.backbone.net.state_dict()
        assert all(torch.equal(v, own[k]) for k, v in state.items())
    torch.save({"model": model.state_dict()}, tmp_path / "whole.pth")
    other = tiny(seed=1, **keys)
    MICCheckpointer(other).load(str(tmp_path / "whole.pth"))
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in model.state_dict().items())
