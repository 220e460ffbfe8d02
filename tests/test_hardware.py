"""What is said of the machine, and of number formats that it has no instructions for."""

import pytest

from mic_det.engine.setup import get_mic_cfg
from mic_det.utils.hardware import BFLOAT16, _cpu_name, cpu_flags, describe_hardware, slow_number_format


def test_the_cpu_is_told_by_its_name(tmp_path):
    file = tmp_path / "cpuinfo"
    file.write_text(
        "processor\t: 0\nmodel name\t: Some CPU @ 2.50GHz\nprocessor\t: 1\nmodel name\t: Some CPU @ 2.50GHz\n"
    )
    assert _cpu_name(file) == "Some CPU @ 2.50GHz"
    assert isinstance(_cpu_name(tmp_path / "gone"), str)
    assert "cores" in describe_hardware() and describe_hardware().startswith("mic_det ")


def test_instructions_of_the_cpu_are_read(tmp_path):
    for line, known in (
        ("flags\t\t: fpu avx512_bf16 sse", True),
        ("Features\t: fp bf16", True),
        ("flags : sse", False),
    ):
        (tmp_path / "cpuinfo").write_text(f"processor: 0\n{line}\n")
        flags = cpu_flags(tmp_path / "cpuinfo")
        assert bool(flags & BFLOAT16) == known
    assert cpu_flags(tmp_path / "absent") == set()


@pytest.mark.parametrize(
    "flags, amp, told",
    [
        ("fpu avx2", ["SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", "bfloat16"], "no bfloat16 instructions"),
        ("fpu avx512_bf16", ["SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", "bfloat16"], ""),
        ("fpu avx512_bf16", ["SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", "float16"], "no float16 instructions"),
        ("fpu avx2", ["SOLVER.AMP.ENABLED", False, "SOLVER.AMP.DTYPE", "bfloat16"], ""),
        ("", ["SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", "bfloat16"], ""),  # a system that does not tell
    ],
)
def test_a_number_format_without_instructions_is_told(tmp_path, flags, amp, told):
    (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n" if flags else "")
    text = slow_number_format(get_mic_cfg("", ["MODEL.DEVICE", "cpu", *amp]), tmp_path / "cpuinfo")
    assert told in text and bool(text) == bool(told)
