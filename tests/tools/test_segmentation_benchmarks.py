"""Configs of the segmentation benchmarks, unchanged but for size and length, on small trees of the true formats."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.cityscapes import write_cityscapes
from helpers.faults import run_program

pytestmark = pytest.mark.slow
CONFIGS = Path(__file__).parents[2] / "configs"
RNG = np.random.default_rng(0)


def save(file, array, palette=None):
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    if palette:
        image.putpalette(palette)
    image.save(file)


def picture(size):
    return RNG.integers(0, 256, (*size, 3), dtype=np.uint8)


def run(folder, monkeypatch, config, *more, **changes):
    """Two steps of a config; what was printed, and the last value of each metric."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    small = {
        "MODEL.DEVICE": "cpu", "MODEL.WEIGHTS": "", "MODEL.MIT.NAME": "b0", "MODEL.SEM_SEG_HEAD.CONVS_DIM": 16,
        "MODEL.MIC.FEATURE_DISTANCE.WEIGHT": 0.0, "MODEL.HRDA.DETAIL_SIZE": "(32, 32)",
        "MODEL.SLIDING.SIZE": "(64, 64)", "MODEL.SLIDING.STRIDE": "(32, 32)",
        "INPUT.MIN_SIZE_TRAIN": "[64]", "INPUT.MIN_SIZE_TRAIN_TARGET": "[64]", "INPUT.MIN_SIZE_TEST": 64,
        # with a patch of 64, whole crops would be hidden: gradients of an untrained MiT overflow where all pixels are 0
        "MODEL.MIC.SEM_SEG.MASK.BLOCK_SIZE": 8,
        "INPUT.CROP.SIZE": "[64, 64]", "DATALOADER.RARE_CLASSES.MIN_PIXELS": 20,
        "DATALOADER.RARE_CLASSES.MIN_CROP_PIXELS": 10, "DATALOADER.NUM_WORKERS": 0,
        "SOLVER.MAX_ITER": 2, "SOLVER.WARMUP_ITERS": 1, "TEST.EVAL_PERIOD": 0, "OUTPUT_DIR": folder / "run",
        **{k.replace("__", "."): v for k, v in changes.items()},
    }  # fmt: skip
    options = [x for kv in small.items() for x in kv]
    code, out = run_program("tools/train_net.py", "--config-file", CONFIGS / config, *more, *options)
    assert code == 0, out[-3000:]
    lines = (folder / "run/metrics.json").read_text().splitlines()
    return out, {k: v for line in lines for k, v in json.loads(line).items()}


def test_gta5_to_cityscapes_with_hrda(tmp_path, monkeypatch):
    """Label maps of both sets are made at the start, and pixels are counted for rare class sampling."""
    write_cityscapes(tmp_path / "cityscapes")
    for i in range(3):
        save(tmp_path / f"gta5/images/{i:05d}.png", picture((53, 96)))
        labels = np.full((53, 96), 7, np.uint8)  # road
        labels[:20], labels[30:, :30] = 23, (26, 24, 33)[i]  # sky; a car, a person or a bicycle
        save(tmp_path / f"gta5/labels/{i:05d}.png", labels, palette=[x for i in range(256) for x in (255 - i, i, 7)])
    margins = {"MODEL__MIC__SEM_SEG__MARGINS": "(0.03, 0.2, 0, 0)"}  # the config's are pixels of 1024 x 2048
    out, last = run(tmp_path, monkeypatch, "gta5_to_cityscapes/mic_hrda.yaml", **margins)
    assert "gta5_train (GTA5): 3 images\n" in out and "cityscapes_sem_val (Cityscapes val): 4 images\n" in out
    assert "cityscapes_sem_train (Cityscapes train): 4 images (labels, if any, are not used)" in out
    assert {"source/loss_sem_seg", "mix/loss_sem_seg", "masked/loss_sem_seg", "sem_seg/mIoU"} <= last.keys()
    made = np.array(Image.open(tmp_path / "gta5/label_maps/00002.png"))
    assert np.unique(made).tolist() == [0, 10, 18]


def test_cityscapes_to_acdc_and_label_maps_of_its_test_set(tmp_path, monkeypatch):
    write_cityscapes(tmp_path / "cityscapes")
    for condition in ("fog", "night"):
        for split in ("train", "val", "test"):
            stem = f"{condition}/{split}/GOPR0475/GOPR_{condition}_{split}"
            save(tmp_path / f"acdc/rgb_anon/{stem}_rgb_anon.png", picture((54, 96)))
            if split != "test":
                labels = RNG.integers(0, 19, (54, 96)).astype(np.uint8)
                save(tmp_path / f"acdc/gt/{stem}_gt_labelTrainIds.png", labels)
    config = "cityscapes_to_acdc/mic_daformer.yaml"
    out, last = run(tmp_path, monkeypatch, config)
    assert "acdc_val (ACDC val): 2 images\n" in out and "acdc_train (ACDC train): 2 images (labels" in out
    assert {"masked/loss_sem_seg", "mix/loss_sem_seg", "sem_seg/mIoU"} <= last.keys()
    trained = {"MODEL__WEIGHTS": tmp_path / "run/model_final.pth", "DATASETS__TEST": '("acdc_test",)'}
    out, _ = run(tmp_path, monkeypatch, config, "--eval-only", **trained)
    assert "acdc_test has no labels. 2 label maps for its server are in" in out
    files = sorted((tmp_path / "run/inference/acdc_test/labelTrainIds").iterdir())
    assert [f.name for f in files] == ["GOPR_fog_test_rgb_anon.png", "GOPR_night_test_rgb_anon.png"]
    labels = np.array(Image.open(files[0]))
    assert labels.shape == (54, 96) and labels.dtype == np.uint8 and labels.max() < 19
