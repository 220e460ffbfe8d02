"""Class folders as data sets: order of the classes, errors, labels that the target loses, and the squares of images."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from helpers.data import write_image
from helpers.image_classes import CLASSES, tiny_options, write_class_folders
from mic_det.data.audit import check_config_datasets
from mic_det.data.class_crops import CenterCrop, RandomResizedCrop
from mic_det.data.classes import expect_classes
from mic_det.data.datasets.image_folders import SETS, load_class_folders, register_class_folders
from mic_det.data.mapper import DomainMapper
from mic_det.data.minicity import make_minicity
from mic_det.data.minicity.crops import make_minicity_crops, square_around
from mic_det.data.run_sets import check_datasets
from mic_det.engine.setup import load_config
from mic_det.errors import ConfigError, DataError, MinicityError

PIXEL = np.zeros((4, 4, 3), np.uint8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("folders")
    write_class_folders(root)
    return root


def test_labels_are_the_sorted_folders(folders):
    dicts = load_class_folders("t_source", folders / "source")
    assert MetadataCatalog.get("t_source").thing_classes == list(CLASSES)
    assert len(dicts) == 12 and len({x["image_id"] for x in dicts}) == 12
    assert all(f"/{CLASSES[x['image_class']]}/" in x["file_name"] for x in dicts)


def test_a_set_with_other_folders_gets_the_models_classes_by_name(tmp_path):
    for name in ("Bus", "car"):
        write_image(tmp_path / "test" / name / "a.png", PIXEL)
    register_class_folders("t_order", tmp_path / "test")
    expect_classes(classes=["truck", "car", "bus"])
    found = {x["file_name"].split("/")[-2]: x["image_class"] for x in DatasetCatalog.get("t_order")}
    assert found == {"Bus": 2, "car": 1} and MetadataCatalog.get("t_order").thing_classes == ["truck", "car", "bus"]
    expect_classes(classes=["truck", "car"])
    with pytest.raises(DataError, match="Bus is a class that the model does not have"):
        DatasetCatalog.get("t_order")
    expect_classes()


@pytest.mark.parametrize(
    "files, message",
    [
        ([], "there is no folder"),
        (["a/x.png", "y.png"], "y.png is in no class folder"),
        (["a/x.png", "b/notes.txt"], "b has no images"),
        ([".hidden/x.png"], "has no sub-folders"),
    ],
)
def test_folders_that_cannot_be_used_are_named(files, message, tmp_path):
    for file in files:
        (tmp_path / "set" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / file).touch()
    with pytest.raises(DataError, match=message):
        load_class_folders("t_bad", tmp_path / "set")


def test_a_run_checks_its_sets_and_the_target_has_no_labels(folders, tmp_path):
    write_image(tmp_path / "loose" / "a.png", PIXEL)  # a folder of images without classes
    report = check_config_datasets(load_config("", tiny_options(folders)), workers=1, progress=False)[0][0]
    assert report.per_class == {"blue": 4, "green": 4, "red": 4} and not report.problems and not report.notes
    loose = {"loose": {"IMAGES": str(tmp_path / "loose")}}
    cfg = load_config("", tiny_options(folders))
    lines = check_datasets(cfg)
    assert lines[0].endswith("12 images (blue 4, green 4, red 4)") and "labels, if any, are not used" in lines[2]
    source, target = (DomainMapper(cfg, True, x) for x in ("source", "target"))
    x = DatasetCatalog.get("source")[5]
    mapped = source(x)
    assert tuple(mapped["image"].shape) == (3, 16, 16) and mapped["image_class"] == 1
    assert "image_class" not in target(x) and target(x)["domain"] == "target"
    cfg = load_config("", tiny_options(folders, "DATASETS.CUSTOM", loose, "DATASETS.TARGET", ("loose",)))
    assert len(DatasetCatalog.get("loose")) == 1
    cfg.DATASETS.TEST = ("loose",)
    with pytest.raises(DataError, match="images without a class"):
        check_datasets(cfg)
    with pytest.raises(DataError, match=r"3 classes \(blue, green, red\), but MODEL.IMAGE_CLASSIFIER.NUM_CLASSES is 4"):
        check_datasets(load_config("", tiny_options(folders, "MODEL.IMAGE_CLASSIFIER.NUM_CLASSES", 4)))


@pytest.mark.parametrize(
    "pairs, message",
    [
        (["INPUT.IMAGE_CLASS.CROP", 19], "INPUT.IMAGE_CLASS.CROP is 19"),
        (["MODEL.MIC.CONSISTENCY.QUALITY", "student"], "QUALITY is 'student'"),
        (["MODEL.MIC.CONSISTENCY.TARGETS", "soft"], "image classes need 'hard'"),
        (["MODEL.MIC.MCC.WEIGHT", 1.0, "DATASETS.TARGET", ()], "MODEL.MIC.MCC.WEIGHT is set"),
        (["MODEL.MIC.SAM.RHO", 0.1, "SOLVER.SEQUENTIAL_BACKWARD", True], "SEQUENTIAL_BACKWARD False"),
        (["MODEL.MIC.SAM.RHO", 0.1, "SOLVER.AMP.ENABLED", True], "bfloat16"),
        (["MODEL.MIC.STUDENT", "RetinaNet", "MODEL.MIC.SAM.RHO", 0.1], "RetinaNet is no image classifier"),
    ],
)
def test_settings_that_cannot_work_are_refused(pairs, message, folders):
    with pytest.raises(ConfigError, match=message):
        load_config("", tiny_options(folders, *pairs))


def test_public_sets_are_registered_and_say_where_they_belong(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    expect_classes()  # of no other set
    for name, (folder, _) in SETS.items():
        with pytest.raises(DataError, match=folder):
            DatasetCatalog.get(name)
    write_image(tmp_path / "office-home" / "Real World" / "Alarm Clock" / "a.jpg", PIXEL)
    assert DatasetCatalog.get("office_home_real_world")[0]["image_class"] == 0


def test_squares_of_images():
    image = np.arange(100).reshape(10, 10)
    assert CenterCrop(4).get_transform(image).apply_image(image)[0, 0] == 33
    areas = []
    np.random.seed(0)
    for _ in range(300):
        crop, resize = RandomResizedCrop(6, (0.2, 0.5)).get_transform(np.zeros((40, 60))).transforms
        assert 0 <= crop.x0 <= 60 - crop.w and 0 <= crop.y0 <= 40 - crop.h
        assert 0.7 < crop.w / crop.h < 1.42, "3/4 to 4/3, and rounding"
        assert resize.apply_image(np.zeros((crop.h, crop.w), np.uint8)).shape == (6, 6)
        areas.append(crop.w * crop.h / 2400)
    assert 0.18 < min(areas) < 0.23 and 0.46 < max(areas) < 0.52 and 0.32 < np.mean(areas) < 0.38
    whole = RandomResizedCrop(6, (1.0, 1.0)).get_transform(np.zeros((10, 40))).transforms[0]
    assert (whole.x0, whole.y0, whole.w, whole.h) == (15, 0, 10, 10), "no such part: the middle"


def test_the_square_around_a_thing():
    assert square_around((10, 20, 20, 10), (100, 100), 0.25) == (5, 10, 30)  # centre (20, 25), side 30
    assert square_around((0, 90, 10, 10), (100, 100), 0.5) == (0, 80, 20)  # moved into the image
    assert square_around((0, 0, 90, 30), (50, 100), 0.5) == (20, 0, 50)  # at most the image's shorter side


def test_minicity_crops_show_the_same_things_clear_and_foggy(tmp_path):
    make_minicity(tmp_path / "minicity", 2, 1, (256, 128), [0.02], 3, 1, False)
    output = tmp_path / "crops"
    counts = make_minicity_crops(tmp_path / "minicity", output, min_side=10, size=24, workers=1, progress=False)
    names = [
        sorted(p.relative_to(output / d).as_posix() for p in (output / d).rglob("*.png")) for d in ("clear", "foggy")
    ]
    assert names[0] == names[1] and len(names[0]) == sum(sum(x.values()) for x in counts.values()) > 3
    for name in names[0]:
        clear, foggy = (np.asarray(Image.open(output / d / name)).astype(float) for d in ("clear", "foggy"))
        assert clear.shape == (24, 24, 3) and not np.array_equal(clear, foggy)
    with pytest.raises(MinicityError, match="crops exists"):
        make_minicity_crops(tmp_path / "minicity", output)
    assert not list(tmp_path.glob(".crops*"))
    with pytest.raises(MinicityError, match="instances_train.json is missing"):
        make_minicity_crops(tmp_path, tmp_path / "other")
