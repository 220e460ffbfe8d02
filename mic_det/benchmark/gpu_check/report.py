"""The result of a check as a table for readers, and that table in a page of the documentation."""

import json
from pathlib import Path

from ...errors import DataError
from ...utils.atomic_files import write_whole

BEGIN, END = "<!-- gpu_check -->", "<!-- /gpu_check -->"
NOT_MEASURED = "Not measured yet: we have had no machine with a GPU."
MOST_RATIO = 1.15  # MIC / floor
PARTS_SHOWN = ("EMA", "mask and colour", "teacher", "pseudo-labels", "data wait")
VARIANTS = {
    "sequential": "`SOLVER.SEQUENTIAL_BACKWARD` / merged",
    "channels_last": "channels_last / default memory format",
    "bfloat16": "AMP bfloat16 / float32",
    "own_stream": "plain step and teacher on two streams / one after the other (bound)",
}


def read_result(file):
    """The content of a gpu_check.json.

    Raises:
        DataError: names the file.
    """
    try:
        result = json.loads(Path(file).read_text(encoding="utf-8"))
        result["parts"], result["rehearsal"]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise DataError(f"{file} is not the result of a GPU check ({e}): name its folder with --output.") from e
    return result


def insert_into_page(page, result):
    """Replace what is between the two markers of a page by the table.

    Args:
        page (path): a Markdown file.
        result (dict): of a check; None = not measured yet.

    Raises:
        DataError: where the markers are missing, or the result is of a rehearsal.
    """
    page = Path(page)
    text = page.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise DataError(f"{page} needs one line {BEGIN} and below it one line {END}: the table goes between them.")
    if result is not None and result["rehearsal"]:
        raise DataError("the result is of a rehearsal on the CPU, so it is not put into a page: run it on a GPU.")
    before, _, rest = text.partition(BEGIN)
    table = NOT_MEASURED if result is None else as_markdown(result)
    text = f"{before}{BEGIN}\n\n{table.strip()}\n\n{END}{rest.partition(END)[2]}"
    write_whole(page, lambda f: f.write(text.encode("utf-8")))


def as_markdown(result):
    """One paragraph about the machine, the table of numbers, and what did not run."""
    found = {name: part["found"] for name, part in result["parts"].items()}
    rows = [*_tests(found), *_ratios(found), *_memory(found), *_compiled(found), *_loader(found), *_training(found)]
    lines = [_machine(result, found.get("machine", {})), ""]
    if rows:
        lines += ["| what | value | target | |", "|---|---|---|---|"]
        lines += [f"| {' | '.join(row)} |" for row in rows]
    lines += ["", *_waits(found)]
    for name, test in found.get("tests", {}).get("messages", {}).items():
        lines.append(f"- The test `{name}` failed: `{_one_line(test)}`")
    for name, part in result["parts"].items():
        if part["status"] != "done":
            why = f" `{_one_line(part['error'])}`" if part.get("error") else ""
            lines.append(f"- The part {name} has no complete result: {part['status']}.{why}")
    return "\n".join(lines).strip() + "\n"


def _one_line(text):
    lines = [x for x in text.replace("`", "'").replace("|", "/").splitlines() if x.strip()]
    return " ".join(lines[-1].split())[:300] if lines else ""


def _machine(result, found):
    kind = "A rehearsal on the CPU, with small sizes: the numbers mean nothing. " if result["rehearsal"] else ""
    parts = [found.get("hardware", "an unknown machine")]
    if "gpu_memory_gib" in found:
        parts.append(f"{found['gpu_memory_gib']} GiB, driver {found.get('driver')}, CUDA {found.get('cuda')}")
    parts.append(f"PyTorch {found.get('torch', '?')}, Python {found.get('python', '?')}")
    size = " x ".join(map(str, result["size"]))
    return (
        f"{kind}{'; '.join(parts)}. Images have {size} pixels. The model is that of "
        f"`cityscapes_to_foggy/mic_sada.yaml`, in float32 where nothing else is said. "
        f"The check took {result.get('seconds', 0):.0f} s."
    )


def _row(what, value, target="", met=None):
    return [what, value, target, "" if met is None else "met" if met else "missed"]


def _tests(found):
    tests = found.get("tests")
    if not tests:
        return []
    value = f"{tests['passed']} passed, {tests['failed']} failed, {tests['skipped']} skipped"
    return [_row("tests marked `gpu`", value, "none fails", not tests["failed"] and tests["passed"] > 0)]


def _ratios(found):
    rows = []
    for name, step in found.get("steps", {}).items():
        ms, ratios = step["median_ms"], step["ratios"]
        name = name.replace("+", " + ")
        floor = f"{ms['plain']:.1f} + {ms['teacher']:.1f} ms"
        rows.append(_row(f"{name} images: plain step + teacher (the floor)", floor))
        value = f"{ratios['mic']:.3f} ({ms['mic']:.1f} ms)"
        rows.append(_row(f"{name}: MIC step / floor", value, f"<= {MOST_RATIO}", ratios["mic"] <= MOST_RATIO))
        value = f"{ratios['mic_sada']:.3f} ({ms['mic_sada']:.1f} ms)"
        rows.append(_row(f"{name}: MIC + SADA / plain step with the target twice + teacher", value))
        rows += [_row(f"{name}: {title}", f"{ratios[key]:.3f}") for key, title in VARIANTS.items()]
        if "parts_ms" in step:
            total = sum(step["parts_ms"].values())
            shares = [f"{p} {100 * step['parts_ms'].get(p, 0) / total:.1f} %" for p in PARTS_SHOWN]
            rows.append(_row(f"{name}: shares of a MIC step", ", ".join(shares)))
        waits = {k: sum(v.values()) for k, v in step.get("waits", {}).items()}
        if any(waits.values()):
            value = ", ".join(f"{k} {n}" for k, n in waits.items())
            rows.append(_row(f"{name}: waits of the host in a step", value))
    return rows


def _waits(found):
    """Where mic_det's own code waits, in a step of the first batch size."""
    step = next(iter(found.get("steps", {}).values()), {})
    waits = step.get("waits", {}).get("mic", {})
    own = {place: n for place, n in waits.items() if place.startswith("mic_det/")}
    if not waits:
        return []
    places = ", ".join(f"`{place}` {n}" for place, n in sorted(own.items(), key=lambda x: -x[1])) or "none"
    every, here = sum(waits.values()), sum(own.values())
    return [f"- The host waits {every} times for the GPU in a MIC step, {here} of them in mic_det itself: {places}."]


def _memory(found):
    rows = []
    for name, memory in found.get("memory", {}).items():
        peak = memory["peak_mib"]
        value = ", ".join(f"{k} {v:.0f}" for k, v in peak.items()) + " MiB"
        name = name.replace("+", " + ")
        rows.append(_row(f"{name}: peak memory", value))
        ratio = memory["mic_to_allowed"]
        what = f"{name}: peak of MIC / (plain + weights of {memory['weights_mib']:.0f} MiB + 10 %)"
        rows.append(_row(what, f"{ratio:.3f}", "<= 1", ratio <= 1))
    return rows


def _compiled(found):
    step = found.get("compile", {})
    if "ratio" not in step:
        return []
    value = f"{step['ratio']:.3f} (the first step takes {step['first_step_seconds']:.0f} s)"
    return [_row("1 + 1: `torch.compile` of both backbones / MIC step", value)]


def _loader(found):
    loader, steps = found.get("loader", {}), list(found.get("steps", {}).values())
    needed = 0
    if steps:
        needed = 2000 * steps[-1]["images"] / steps[-1]["median_ms"]["mic"]
    rows = []
    for form in ("png", "jpg"):
        for workers, speed in loader.get(form, {}).items():
            target, met = (f">= {needed:.1f}, the step's", speed >= needed) if needed else ("", None)
            what = f"loader, {workers} workers for each domain, {form.upper()}: images a second"
            rows.append(_row(what, f"{speed:.1f}", target, met))
    return rows


def _training(found):
    training, rows = found.get("training", {}), []
    for name, title in (("source_only", "source-only"), ("mic", "MIC")):
        if name in training:
            run = training[name]
            values = ", ".join(
                f"{k.replace('minicity_', '').replace('_', ' ')} {v:.1f}" for k, v in run["ap50"].items()
            )
            value = f"{values} ({run['steps']} steps, {run['seconds']:.0f} s)"
            rows.append(_row(f"miniature city, {title}: AP50", value))
    if len(rows) == 2:
        before, after = (training[x]["ap50"]["minicity_foggy_val"] for x in ("source_only", "mic"))
        rows[-1] = [*rows[-1][:2], f"> {before:.1f}, source-only in fog", "met" if after > before else "missed"]
    return rows
