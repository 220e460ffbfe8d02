"""Keys of backbones: torchvision's and timm's classifiers below a feature pyramid, and plain ViTs."""

from .rules import (
    AT_LEAST_0,
    COUNT,
    SHARE,
    SHARE_BELOW_1,
    TEXT,
    Key,
    Section,
    each,
    number,
    one_of,
    whole,
)

NORM = one_of("FrozenBN", "BN")
OUTPUT_NORM = one_of("", "LN")
OUTPUT_NORM_DOC = (
    'LN: a LayerNorm on each of the maps res2 to res5, as detectors on Swin and ConvNeXt have it. "" = none. '
)

# fmt: off
BACKBONE_SECTIONS = (
    Section("Backbone", "[backbones.md](backbones.md) lists the backbones with their configs and costs.", (
        Key("MODEL.BACKBONE.MIN_MATCHED_KEYS", 0.9, SHARE,
            "Loading stops where MODEL.WEIGHTS has less than this share of the backbone's tensors. It also stops where "
            "the shape of another tensor differs from the file's, except in predictors of another number of classes. "
            "0 = load all tensors that fit.", "share of tensors"),
        Key("MODEL.TORCHVISION.NAME", "mobilenet_v2", TEXT,
            "Torchvision's classifier, for MODEL.BACKBONE.NAME build_torchvision_fpn_backbone (an FPN on it) and "
            "build_torchvision_backbone (its stages res2 to res5): resnet*, resnext*, wide_resnet*, mobilenet_v2, "
            "mobilenet_v3_*, efficientnet_*, convnext_*, swin_*, swin_v2_*, ... MODEL.WEIGHTS loads its ImageNet "
            "weights: \"torchvision://NAME\" (a download), or a file with torchvision's state dict."),
        Key("MODEL.TORCHVISION.NORM", "FrozenBN", NORM,
            "FrozenBN: BatchNorm layers become fixed affine maps. BN: they are trained, except in frozen stages. "
            "MODEL.BACKBONE.FREEZE_AT is the number of finest stages that are frozen, including the stem."),
        Key("MODEL.TORCHVISION.OUTPUT_NORM", "", OUTPUT_NORM, OUTPUT_NORM_DOC +
            "With \"\", old checkpoints fit."),
        Key("MODEL.TIMM.NAME", "convnext_tiny", TEXT,
            "timm's classifier, for MODEL.BACKBONE.NAME build_timm_fpn_backbone (an FPN on it) and build_timm_backbone "
            "(its stages res2 to res5): convnext*, swin*, efficientnet*, resnet*, regnet*, pvt_v2*, ... It needs the "
            "extra timm: `pip install mic_det[timm]`. MODEL.WEIGHTS loads its ImageNet weights: \"timm://NAME\" (a "
            "download; NAME may have a tag, such as convnext_tiny.fb_in22k), or a file with timm's state dict."),
        Key("MODEL.TIMM.NORM", "FrozenBN", NORM,
            "FrozenBN: BatchNorm layers become fixed affine maps. BN: they are trained, except in frozen stages. "
            "MODEL.BACKBONE.FREEZE_AT is the number of finest stages that are frozen, including the stem."),
        Key("MODEL.TIMM.OUTPUT_NORM", "", OUTPUT_NORM, OUTPUT_NORM_DOC.strip()),
        Key("MODEL.TIMM.DROP_PATH", 0.0, SHARE_BELOW_1,
            "Probability that a residual branch of the last block is dropped in training. It grows linearly from 0 "
            "over the blocks.", "probability"),
    )),
    Section("ViTDet",
        "Li et al., \"Exploring plain vision transformer backbones for object detection\", ECCV 2022. For "
        "MODEL.BACKBONE.NAME build_vitdet_backbone: Detectron2's ViT with patches of 16 pixels, and its simple feature "
        "pyramid p2 to p6 (MODEL.FPN.OUT_CHANNELS, MODEL.FPN.NORM). It needs the extra timm. MODEL.WEIGHTS takes "
        "weights of plain ViTs: MAE, DINO, DINOv2, DINOv3, timm's, and those of transformers. "
        "MODEL.BACKBONE.FREEZE_AT: 1 = patch embedding and positions are frozen, n = the first n - 1 blocks, too.", (
        Key("MODEL.VIT.EMBED_DIM", 768, COUNT, "Width: 384 (S), 768 (B), 1024 (L).", "channels", "published: ViT-B"),
        Key("MODEL.VIT.DEPTH", 12, COUNT, "Number of blocks: 12 (S, B), 24 (L).", "blocks", "published: ViT-B"),
        Key("MODEL.VIT.NUM_HEADS", 12, COUNT, "Heads of attention: 6 (S), 12 (B), 16 (L).", "heads",
            "published: ViT-B"),
        Key("MODEL.VIT.DROP_PATH", 0.1, SHARE_BELOW_1,
            "Probability that a residual branch of the last block is dropped in training. It grows linearly from 0 "
            "over the blocks.", "probability", "published: 0.1 (B), 0.4 (L)"),
        Key("MODEL.VIT.WINDOW_SIZE", 14, AT_LEAST_0,
            "Side of the windows of attention; 0 = every block attends to the whole image.", "patches",
            "published: 14"),
        Key("MODEL.VIT.GLOBAL_BLOCKS", (2, 5, 8, 11), each(AT_LEAST_0, 0, rising=True),
            "Blocks, from 0, that attend to the whole image.", "blocks",
            "published: the last block of each quarter (B: 2, 5, 8, 11; L: 5, 11, 17, 23)"),
        Key("MODEL.VIT.POSITIONS", "relative", one_of("absolute", "relative", "rotary"),
            "absolute: one embedding for each patch, interpolated to the image's size (MAE, DINO, DINOv2). relative: "
            "also learned relative positions in attention, which begin with 0 (ViTDet). rotary: rotary embeddings and "
            "no absolute ones (DINOv3).", source="published: relative"),
        Key("MODEL.VIT.PRETRAIN_SIZE", 224, whole(16),
            "For absolute positions: side of the images of the pretraining. The model has (PRETRAIN_SIZE / 16)^2 "
            "embeddings. Those of a file with another number are interpolated. DINOv2: 592, because its 37 x 37 "
            "embeddings belong to patches of 14 pixels.", "pixels", "published: 224"),
        Key("MODEL.VIT.IMAGE_SIZE", 1024, whole(16),
            "For relative positions: the side of an image that sets their number in global blocks. They are "
            "interpolated to other sizes.", "pixels", "published: 1024"),
        Key("SOLVER.LAYER_LR_DECAY", 1.0, number(0, 1, open_left=True),
            "Factor of the learning rate from each block of a ViT to the block before it; 1 = the same rate for all. "
            "The pyramid and the heads have the full rate. It needs SOLVER.OPTIMIZER AdamW.",
            source="published: 0.7 (B), 0.8 (L)"),
    )),
)
# fmt: on
