"""tools/report.py: the page is parsed, and compared with what was written into the run folders."""

import base64
import json
import re

import cv2
import numpy as np
import pytest

from helpers.data import refusal_here
from helpers.report_pages import CONFIG, LOG, lines, report, write_run
from mic_det.visualization.curves import line_chart, running_mean

pytestmark = pytest.mark.slow

AP = {"AP": 21.04, "AP50": 40.25, "AP75": 20.0, "AP50-car": 60.5, "AP50-bus": 20.0}


def row(page, first, table=0):
    return next(r[1:] for r in page.tables[table] if r[0] == first)


def test_results_of_runs_stand_side_by_side(tmp_path, monkeypatch):
    better = {**AP, "AP50": 47.6, "AP50-bus": float("nan")}
    runs = [write_run(tmp_path / "sada", lines(ap=AP)), write_run(tmp_path / "mic", lines(ap=better))]
    page = report(tmp_path, *runs, monkeypatch=monkeypatch)
    assert page.tables[0][0] == ["", "sada", "mic"]
    assert row(page, "fog_val") == ["step 60", "step 60"]
    assert row(page, "AP50") == ["40.2", "47.6"]
    assert row(page, "AP") == ["21.0", "21.0"]
    assert row(page, "AP50-car") == ["60.5", "60.5"]
    assert row(page, "AP50-bus") == ["20.0", "–"]
    assert row(page, "steps") == ["60 of 60", "60 of 60"]
    assert row(page, "seed") == ["7", "7"]
    assert page.texts["h2"][1:] == ["sada", "mic"]


def test_the_page_refers_to_nothing_outside_of_it(tmp_path, monkeypatch):
    run = write_run(tmp_path / "mic", lines(ap=AP))
    (run / "visuals").mkdir()
    cv2.imwrite(str(run / "visuals/0000019.jpg"), np.full((20, 40, 3), 128, np.uint8))
    page = report(tmp_path, run, monkeypatch=monkeypatch)
    assert len(page.links) > 5 and all(link.startswith("data:image/") for link in page.links)
    html = (tmp_path / "pages/report.html").read_text()
    assert not re.search(r"url\(|@import|https?://", re.sub(r"data:[^\"]+", "", html))
    for name, uri in page.images.items():
        if uri.startswith("data:image/svg+xml"):
            svg = base64.b64decode(uri.split(",")[1]).decode()
            assert "<svg" in svg and not re.search(r'(href|src)="(?!#)', svg), name


def test_curves_of_all_groups_are_there(tmp_path, monkeypatch):
    evaluations = lines(ap=AP)
    evaluations.insert(1, json.dumps({"iteration": 20, **{f"bbox/{k}": v / 2 for k, v in AP.items()}}))
    page = report(tmp_path, write_run(tmp_path / "mic", evaluations), monkeypatch=monkeypatch)
    titles = " | ".join(page.images)
    for part in ("total loss", "source/", "masked/", "align/", "boxes an image", "by class", "Domain classifiers",
                 "AP50 on fog_val", "AP50 of each class on fog_val"):  # fmt: skip
        assert part in titles, titles


def test_command_environment_and_config_are_shown(tmp_path, monkeypatch):
    run = write_run(tmp_path / "mic", lines(ap=AP))
    page = report(tmp_path, run, monkeypatch=monkeypatch)
    assert page.texts["pre"][0].startswith("Namespace(config_file='mic.yaml', "), "a run of an earlier version"
    first, again = "python tools/train_net.py --config-file a.yaml OUTPUT_DIR 'a <b>'", "python x.py --resume"
    (run / "command_line.txt").write_text(f"{first}\n{again}\n{again}\n")
    page = report(tmp_path, run, monkeypatch=monkeypatch)
    command, config = page.texts["pre"]
    assert command == f"{first}\n{again}"
    assert config == CONFIG
    assert row(page, "PyTorch", table=1) == ["2.9.1+cpu"], "without the machine's folder"
    assert row(page, "training time", table=1) == ["0:12:06 (0:00:01 on hooks)"]
    assert row(page, "seconds a step (median)", table=1) == ["0.250"]
    assert not any("not finished" in p for p in page.texts["p"])


def test_a_killed_run_is_reported_as_far_as_it_came(tmp_path, monkeypatch, capsys):
    content = lines(steps=40)
    content[-1] += "\n" + lines(steps=20)[0][:70]  # killed while it wrote
    run = write_run(tmp_path / "killed", content, log="", checkpoint=False)
    page = report(tmp_path, run, monkeypatch=monkeypatch)
    notes, printed = " ".join(page.texts["p"]), capsys.readouterr().out
    for part in ("cut off", "step 40 of 60", "no evaluation", "no checkpoint", "no log.txt"):
        assert part in notes and part in printed, part
    assert row(page, "steps") == ["40 of 60"]
    assert "total loss" in page.images


def test_a_resumed_run_counts_its_later_values(tmp_path, monkeypatch):
    content = lines(steps=60) + lines(steps=40)[1:] + lines(steps=60, ap=AP)[2:]
    content[4] = json.dumps({"iteration": 59, "total_loss": 9.0})
    content[-1] = json.dumps({"iteration": 60, "bbox/AP50": 12.0})
    page = report(tmp_path, write_run(tmp_path / "run", content), monkeypatch=monkeypatch)
    assert row(page, "AP50") == ["12.0"] and row(page, "steps") == ["60 of 60"]


def test_several_test_sets_are_kept_apart(tmp_path, monkeypatch):
    content = lines() + [json.dumps({"iteration": 60, "day/bbox/AP50": 80.0, "fog/bbox/AP50": 50.0})]
    page = report(tmp_path, write_run(tmp_path / "run", content), monkeypatch=monkeypatch)
    rows = [r for r in page.tables[0] if r[0] in ("day", "fog", "AP50")]
    assert rows == [["day", "step 60"], ["AP50", "80.0"], ["fog", "step 60"], ["AP50", "50.0"]]


def test_pixels_masks_and_the_student_are_told_apart(tmp_path, monkeypatch):
    values = {"bbox/AP50": 40.0, "sem_seg/mIoU": 50.0, "sem_seg/IoU-road": 90.0}
    values.update({"segm/AP": 11.0, "panoptic_seg/PQ": 22.0})
    values.update({f"student/{k}": v - 5 for k, v in values.items()})
    quality = {"pseudo_labels/recall": 55.0, "pseudo_labels/precision-car": 80.0, "pseudo_labels/IoU-road": 70.0}
    content = lines() + [json.dumps({"iteration": 60, **values, **quality})]
    content.insert(1, json.dumps({"iteration": 20, **{k: v / 2 for k, v in values.items()}}))
    page = report(tmp_path, write_run(tmp_path / "run", content), monkeypatch=monkeypatch)
    found = [r for r in page.tables[0] if r[0] not in ("", "steps", "seed", "model")]
    metrics = [["AP50", "40.0"], ["mask AP", "11.0"], ["mIoU", "50.0"], ["PQ", "22.0"], ["IoU-road", "90.0"]]
    student = [[k, f"{float(v) - 5:.1f}"] for k, v in metrics]
    assert found == [["fog_val", "step 60"], *metrics, ["fog_val (student)", "step 60"], *student]
    for title in ("mIoU on fog_val", "IoU of each class on fog_val (student)", "quality of pseudo-labels",
                  "precision of pseudo-labels, by class", "IoU of pseudo-labels, by class"):  # fmt: skip
        assert any(title in t for t in page.images), title


def test_what_comes_from_files_is_text_not_html(tmp_path, monkeypatch):
    evil = "<script>alert(1)</script>"
    content = lines(ap={**AP, f"AP50-{evil}": 1.0})
    content[0] = content[0].replace("source/loss_cls", f"source/loss_{evil}").replace("num_boxes_car", "num_boxes_<b>")
    log = LOG.replace("SEED", evil).replace("linux", "<img src=x>")
    run = write_run(tmp_path / "a<b>&c", content, config=CONFIG + f"EVIL: '{evil}'\n", log=log)
    (run / "visuals").mkdir()
    cv2.imwrite(str(run / "visuals/<i>.png"), np.zeros((4, 4, 3), np.uint8))
    page = report(tmp_path, run, monkeypatch=monkeypatch)  # Page refuses script tags
    assert page.tables[0][0] == ["", "a<b>&c"] and row(page, f"AP50-{evil}") == ["1.0"]
    assert evil in page.texts["pre"][0] and evil in page.texts["pre"][1]
    assert row(page, "sys.platform", table=1) == ["<img src=x>"]
    assert page.texts["figcaption"] == ["<i>.png"]


def test_pictures_are_embedded_in_the_order_of_their_steps(tmp_path, monkeypatch):
    run = write_run(tmp_path / "mic", lines(ap=AP))
    folder = tmp_path / "more"
    for where in (run / "visuals", folder):
        where.mkdir()
    for step in (100, 20, 3):
        cv2.imwrite(str(run / f"visuals/{step}.png"), np.full((30, 60, 3), step, np.uint8))
    cv2.imwrite(str(folder / "large.png"), np.full((100, 4000, 3), 77, np.uint8))
    (folder / "torn.png").write_bytes(b"\x89PNG")
    page = report(tmp_path, run, monkeypatch=monkeypatch, more=["--pictures", folder])
    assert page.texts["figcaption"] == ["3.png", "20.png", "100.png", "large.png"]
    assert any("torn.png cannot be read" in p for p in page.texts["p"])
    for name, value in (("3.png", 3), ("100.png", 100), ("large.png", 77)):
        content = base64.b64decode(page.images[name].split(",")[1])
        picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        assert abs(picture.astype(int) - value).max() <= 2 and picture.shape[1] <= 1600
    few = report(tmp_path, run, monkeypatch=monkeypatch, more=["--max-pictures", 2])
    assert few.texts["figcaption"] == ["3.png", "100.png"] and "2 of 3 pictures." in few.texts["p"]


def test_damaged_config_and_runs_of_one_name(tmp_path, monkeypatch):
    runs = [write_run(tmp_path / f"{d}/mic", lines(ap=AP), config="a: [", log="junk") for d in ("one", "two")]
    page = report(tmp_path, *runs, monkeypatch=monkeypatch)
    assert page.tables[0][0] == ["", "one/mic", "two/mic"]
    assert any("config.yaml cannot be read" in p for p in page.texts["p"])


@pytest.mark.parametrize("content", [None, "", "no json at all\n"], ids=["missing", "empty", "junk"])
def test_no_metrics_is_one_error(tmp_path, monkeypatch, content):
    (tmp_path / "run").mkdir()
    if content is not None:
        (tmp_path / "run/metrics.json").write_text(content)
    message = refusal_here("report.py", tmp_path / "run", "--output", tmp_path / "r.html", monkeypatch=monkeypatch)
    assert "run/metrics.json" in message.replace("\\", "/")
    assert not (tmp_path / "r.html").exists()


def test_missing_folders_are_named(tmp_path, monkeypatch):
    assert "gone" in refusal_here("report.py", tmp_path / "gone", monkeypatch=monkeypatch)
    run = write_run(tmp_path / "run", lines())
    message = refusal_here("report.py", run, "--pictures", tmp_path / "nowhere", monkeypatch=monkeypatch)
    assert "--pictures" in message and "nowhere" in message


# ------------------------------------------------------------------------------------- curves


def test_a_chart_has_the_points_it_was_given():
    figure = line_chart("t", {"a": ([0, 10, 20], [1.0, 4.0, 1.0]), "b": ([5], [2.0])}, dashed=["b"])
    a, b = figure.axes[0].get_lines()
    assert a.get_xdata().tolist() == [0, 10, 20] and a.get_ydata().tolist() == [1, 4, 1]
    assert a.get_linestyle() == "-" and b.get_linestyle() == "--" and b.get_marker() == "o"
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["a", "b"]


def test_running_mean_is_over_neighbours():
    assert running_mean([1, 2, 6, 3], 3).tolist() == [1.5, 3, 11 / 3, 4.5]
    assert running_mean([1, 2], 1).tolist() == [1, 2]
