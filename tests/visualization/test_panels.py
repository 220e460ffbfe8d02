"""Pictures show what they claim to: boxes at their place, hidden patches in the mean colour, captions."""

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from helpers.data import CLASSES, HEIGHT, WIDTH, forget_registered_sets, load, tiny_config
from mic_det.visualization.panels import (
    COLORS,
    draw_boxes,
    mic_panels,
)
from mic_det.visualization.sheet import contact_sheet

SCALE = 800 / WIDTH  # pictures are enlarged to a width of 800 pixels
MEAN = 60  # PIXEL_MEAN of the tiny config
MASKED = "masked view of the student, pseudo-boxes"
BLOCK = 16  # MODEL.MIC.MASK.BLOCK_SIZE of the tiny config


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    keys = {
        "MODEL__META_ARCHITECTURE": "MIC",
        "MODEL__BACKBONE__NAME": "build_torchvision_fpn_backbone",
        "MODEL__MIC__STRONG_AUG": {"JITTER_PROB": 0.0, "BLUR_PROB": 0.0},  # what is not hidden stays as it is
    }
    with forget_registered_sets():
        return build_model(load(folder, tiny_config(folder, **keys))).eval()


def hue(pixels, color):
    """Cosine between pixels (..., 3) and a colour: 1 = the same hue, however faint."""
    pixels = pixels.astype(float)
    return (pixels * color).sum(-1) / (np.linalg.norm(pixels, axis=-1) * np.linalg.norm(color) + 1e-9)


def near(picture, x, y, radius=4):
    """The brightest pixel around a point of the small image: an edge is a few pixels wide."""
    x, y = round(x * SCALE), round(y * SCALE)
    patch = picture[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1].reshape(-1, 3)
    return patch[patch.sum(axis=1).argmax()]


@pytest.mark.parametrize("label", [0, 2, len(COLORS) + 1])
def test_a_box_is_drawn_at_its_edges_in_the_colour_of_its_class(label):
    x0, y0, x1, y1 = 30, 20, 70, 50
    drawn = draw_boxes(np.zeros((HEIGHT, WIDTH, 3), np.uint8), [[x0, y0, x1, y1]], [label])
    assert drawn.shape == (round(HEIGHT * SCALE), 800, 3) and drawn.dtype == np.uint8
    color = COLORS[label % len(COLORS)]
    # middles of the four edges; the label's text sits at the upper left corner
    for x, y in [(x0, 40), (x1, 40), (55, y1), (60, y0)]:
        pixel = near(drawn, x, y)
        assert pixel.max() > 60 and hue(pixel, color) > 0.99, (x, y)
    # and nowhere else: neither inside nor around
    for x, y in [(50, 40), (62, 42), (20, 40), (80, 30), (50, 58), (85, 10)]:
        assert near(drawn, x, y).max() == 0, (x, y)


def test_a_label_names_class_and_score():
    black = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    box = [[30, 20, 70, 50]]
    plain = draw_boxes(black, box, [1], class_names=CLASSES)
    scored = draw_boxes(black, box, [1], [0.5], class_names=CLASSES)
    other = draw_boxes(black, box, [1], [0.75], class_names=CLASSES)
    unnamed = draw_boxes(black, box, [1])  # falls back to the class's number
    pictures = [plain, scored, other, unnamed]
    assert all((a != b).any() for i, a in enumerate(pictures) for b in pictures[i + 1 :])


def test_without_boxes_the_picture_is_only_enlarged():
    rng = np.random.default_rng(0)
    image = np.kron(rng.integers(0, 255, (4, 6, 3), np.uint8), np.ones((16, 16, 1), np.uint8))
    drawn = draw_boxes(image, [], [])
    for row in range(4):
        for column in range(6):
            y, x = round((row * 16 + 8) * SCALE), round((column * 16 + 8) * SCALE)
            assert np.abs(drawn[y, x].astype(int) - image[row * 16 + 8, column * 16 + 8]).max() <= 2


def test_large_images_are_not_made_smaller():
    assert draw_boxes(np.zeros((100, 1000, 3), np.uint8), [], []).shape == (100, 1000, 3)


def panels_of(model, image, truth=None, seed=0, **kwargs):
    generator = torch.Generator().manual_seed(seed)
    return mic_panels(model, {"image": image}, truth, generator, class_names=CLASSES, **kwargs)


def test_panels_and_their_captions(model):
    image = torch.randint(0, 255, (3, HEIGHT, WIDTH), dtype=torch.uint8)
    truth = Instances((HEIGHT, WIDTH), gt_boxes=Boxes([[30, 20, 70, 50]]), gt_classes=torch.tensor([2]))
    panels = panels_of(model, image, truth, score_threshold=0.25)
    captions = [caption for caption, _ in panels]
    parts = ["target image", "pseudo-boxes (", MASKED]
    parts += ["on the masked view, score >= 0.25", "whole image, score >= 0.25", "truth"]
    assert len(captions) == len(parts)
    for caption, part in zip(captions, parts):
        assert part in caption
    assert len({picture.shape for _, picture in panels}) == 1
    for x, y in [(30, 40), (70, 40), (55, 50), (60, 20)]:
        differs = near(np.abs(panels[-1][1].astype(int) - panels[0][1].astype(int)), x, y)
        assert differs.max() > 30, "the true box is drawn over the image"
    assert len(panels_of(model, image)) == 5, "no panel of a truth that is not known"


def test_masked_view_hides_whole_blocks_in_the_mean_colour(model):
    image = torch.full((3, HEIGHT, WIDTH), 200, dtype=torch.uint8)
    views = [dict(panels_of(model, image, seed=seed))[MASKED] for seed in (1, 1, 2)]
    hidden = []
    for view in views:
        blocks = np.zeros((HEIGHT // BLOCK, WIDTH // BLOCK), bool)
        for row in range(blocks.shape[0]):
            for column in range(blocks.shape[1]):
                y0, y1, x0, x1 = (
                    round(v * SCALE) for v in (row * BLOCK, row * BLOCK + BLOCK, column * BLOCK, column * BLOCK + BLOCK)
                )
                inner = view[y0 + 12 : y1 - 12, x0 + 12 : x1 - 12].astype(int)  # enlarging blurs the border
                blocks[row, column] = abs(inner.mean() - MEAN) < 1
                shade = MEAN if blocks[row, column] else 200
                assert np.abs(inner - shade).max() <= 1, "a block is hidden as a whole, or shown as it is"
        hidden.append(blocks)
    assert 4 < hidden[0].sum() < 20, "about half of 24 blocks"
    assert (hidden[0] == hidden[1]).all() and (hidden[0] != hidden[2]).any(), "the generator draws the mask"


def test_the_target_image_is_shown_in_its_colours(model):
    image = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)
    image[0] = 250  # RGB, as INPUT.FORMAT of the tiny config says
    picture = panels_of(model, image)[0][1]
    assert picture[..., 0].min() > 240 and picture[..., 1:].max() < 5


def test_drawing_changes_neither_the_model_nor_the_log(model):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    image = torch.randint(0, 255, (3, HEIGHT, WIDTH), dtype=torch.uint8)
    kept = image.clone()
    with EventStorage() as storage:
        panels_of(model, image)
    assert storage.latest() == {}, "pictures drawn in a training must not appear as pseudo-box counts"
    assert model.steps == 0 and not model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(image, kept)


def test_pseudo_box_panel_counts_and_draws_the_teachers_boxes(model):
    """The threshold decides; at 0 every detection of this untrained teacher is a pseudo-box."""
    image = torch.randint(0, 255, (3, HEIGHT, WIDTH), dtype=torch.uint8)
    task = model.task("boxes")
    selection = task.select
    counts, masked = {}, {}
    try:
        for threshold in (0.0, 1.0):
            task.select = {**selection, "score_threshold": threshold}
            panels = panels_of(model, image, max_rejected=0)
            (caption, picture) = panels[1]
            counts[threshold] = int(caption.split("(")[1].split(")")[0])
            assert (picture != panels[0][1]).any() == (counts[threshold] > 0)
            masked[threshold] = panels[2][1]
    finally:
        task.select = selection
    with torch.no_grad():
        found = model.teacher.inference([{"image": image}], do_postprocess=False)[0]
    assert counts[1.0] == 0
    assert (masked[0.0] != masked[1.0]).any(), "the same mask, with the boxes and without"
    assert 0 < counts[0.0] <= len(found)


def test_the_students_prediction_is_that_for_the_image_with_hidden_patches(model):
    image = torch.randint(0, 255, (3, HEIGHT, WIDTH), dtype=torch.uint8)
    with torch.no_grad():
        images = model.student.preprocess_image([{"image": image}])
        model.hide_patches(images, torch.Generator().manual_seed(1))
        seen = images.tensor[0, :, :HEIGHT, :WIDTH] * model.student.pixel_std + model.student.pixel_mean
        found = model.task("boxes").predict(model.student, images)[0]
        expected = model.student.inference([{"image": seen}], do_postprocess=False)[0]
        whole = model.student.inference([{"image": image}], do_postprocess=False)[0]
    assert len(found) == len(expected) > 0
    assert torch.allclose(found.pred_boxes.tensor, expected.pred_boxes.tensor, atol=1e-2)
    assert not torch.equal(found.scores[:3], whole.scores[:3])


# ------------------------------------------------------------------------------ the contact sheet


def test_contact_sheet_puts_every_panel_below_its_caption():
    def panel(value):
        return f"value {value}", np.full((50, 400, 3), value, np.uint8)

    sheet = contact_sheet([[panel(10), panel(20)], [panel(30)]])
    caption = sheet.shape[0] // 2 - 50
    assert sheet.shape == (2 * (50 + caption), 800, 3) and sheet.dtype == np.uint8
    assert 20 <= caption <= 60
    cell = 50 + caption
    for (row, column), value in {(0, 0): 10, (0, 1): 20, (1, 0): 30, (1, 1): 255}.items():
        area = sheet[row * cell + caption : (row + 1) * cell, column * 400 : (column + 1) * 400]
        assert (area == value).all()
    strip = sheet[:caption, :400]
    assert strip.min() < 50 and (strip == 255).mean() > 0.7, "dark text on white"
    assert (sheet[cell : cell + caption, 400:] == 255).all(), "no caption where there is no panel"


def test_contact_sheet_fits_pictures_of_another_size():
    rows = [[("a", np.full((50, 100, 3), 7, np.uint8))], [("b", np.full((200, 120, 3), 9, np.uint8))]]
    sheet = contact_sheet(rows)
    assert sheet.shape[1] == 100
    assert {7, 9} <= set(np.unique(sheet))
