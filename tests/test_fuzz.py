"""Whatever is in a user's file, a program goes on or ends with one line: bounded random trials, the same each time.

MIC_FUZZ_EXAMPLES sets how many there are of each (default: as many as take some seconds).
"""

import copy
import json
import os

import pytest
import torch
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from helpers.data import forget_registered_sets
from helpers.resume import MIC, make_trainer, saved
from mic_det.engine.setup import load_config
from mic_det.errors import ConfigError, DataError, MICError
from mic_det.experiments.report import build_report
from mic_det.experiments.run_files import read_run

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("MIC_FUZZ_EXAMPLES", "0"))


def trials(count):
    return settings(
        max_examples=EXAMPLES or count, deadline=None, derandomize=not EXAMPLES, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


def one_line(error):
    assert str(error) and "\n" not in str(error) and "\r" not in str(error), repr(str(error))


# any text: halves of surrogate pairs, NUL and control characters too
TEXTS = st.text(st.characters(), max_size=8) | st.sampled_from(
    ["\0", "\ud800", "../x", "a\nb", "\x1b[31m", "1e999", ""]
)
NUMBERS = st.sampled_from([0, 1, -1, 2**31, -(2**63), 10**30, 0.5, -0.0, float("nan"), float("inf"), 1e308, True])
PLAIN = st.none() | NUMBERS | TEXTS
NESTED = st.recursive(
    PLAIN, lambda x: st.lists(x, max_size=3) | st.dictionaries(TEXTS | st.integers(-2, 2), x, max_size=3), max_leaves=6
)


# ------------------------------------------------------------------------------------- checkpoints


def tensors():
    kinds = [
        lambda: torch.zeros(()), lambda: torch.zeros(3), lambda: torch.full((2, 2), float("nan")),
        lambda: torch.zeros(1).expand(10**9), lambda: torch.zeros(0), lambda: torch.ones(8).half(),
        lambda: torch.ones(8, dtype=torch.int64), lambda: torch.eye(3).to_sparse(), lambda: torch.ones(3) + 1j,
        lambda: torch.empty(4, device="meta"), lambda: torch.ones(5056, dtype=torch.uint8),
        lambda: torch.full((8,), 1e300, dtype=torch.float64),
    ]  # fmt: skip
    return st.sampled_from(kinds).map(lambda f: f())


def deep(levels=2000):
    value = []
    for _ in range(levels):
        value = [value]
    return value


def places(content, path=()):
    """All paths of a nested container."""
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*path, key))


@pytest.fixture(scope="module")
def trained(data):
    """A checkpoint of one step, and a trainer of the same config with two more to go."""
    keys = {**MIC, "SOLVER__ACCUMULATE_STEPS": 1, "SOLVER__MAX_ITER": 1}
    make_trainer(data, data / "fuzz", **keys).train()
    return data, {**keys, "SOLVER__MAX_ITER": 2}, saved(data / "fuzz")


@pytest.mark.filterwarnings("ignore")
def test_checkpoints(trained):
    data, keys, good = trained
    # the weights have hundreds of entries, of which one is like another
    spots = [p for p in places(good) if p[0] != "model"] + [("model", k) for k in list(good["model"])[::40]]
    spots += [("model",), ("trainer",), ("model", "num_steps")]
    file = data / "fuzz/model_final.pth"
    trainers = [make_trainer(data, data / "fuzz", **keys)]
    outcomes = {"refused": 0, "resumed": 0}

    @trials(40)
    @given(
        st.lists(st.sampled_from(spots), min_size=1, max_size=2), st.data(),
        st.sampled_from(["replace", "replace", "delete", "add", "tensor", "deep"]),
    )  # fmt: skip
    def run(chosen, draw, how):
        state = copy.deepcopy(good)
        for path in chosen:
            node = state
            try:
                for key in path[:-1]:
                    node = node[key]
                old = node[path[-1]]
            except (LookupError, TypeError):
                assume(False)
            if how == "delete":
                del node[path[-1]]
            elif how == "add" and isinstance(old, dict):
                old[draw.draw(TEXTS)] = draw.draw(NESTED)
            elif how == "tensor":
                node[path[-1]] = draw.draw(tensors())
            elif how == "deep":
                node[path[-1]] = deep()
            else:
                node[path[-1]] = draw.draw(NESTED)
        try:
            torch.save(state, file)
        except (RuntimeError, RecursionError, ValueError, UnicodeError):
            assume(False)  # no file can hold it
        trainer = trainers[0]
        try:
            trainer.resume_or_load(True)
            if trainer.start_iter == 1:
                trainer.train()
                assert all(v.isfinite().all() for v in trainer.checkpointer.model.state_dict().values())
        except MICError as e:
            one_line(e)
            outcomes["refused"] += 1
        else:
            outcomes["resumed"] += 1
            trainers[0] = make_trainer(data, data / "fuzz", **keys)
            (data / "fuzz/last_checkpoint").write_text("model_final.pth")

    run()
    assert min(outcomes.values()) > 3, "both kinds are tried"


@pytest.mark.parametrize("seed", range(3))
def test_changed_bytes_of_a_checkpoint(trained, tmp_path, seed):
    """Bytes that are changed anywhere: refused, or harmless as in the archive's dates."""
    data, keys, good = trained
    torch.save(good, tmp_path / "good.pth")
    content = (tmp_path / "good.pth").read_bytes()
    generator = torch.Generator().manual_seed(seed)
    (data / "fuzz/last_checkpoint").write_text("model_final.pth")
    trainer = make_trainer(data, data / "fuzz", **keys)
    for _ in range(8):
        damaged = bytearray(content)
        for at in torch.randint(len(content), (3,), generator=generator).tolist():
            damaged[at] ^= 1 << (at % 8)
        (data / "fuzz/model_final.pth").write_bytes(damaged)
        try:
            trainer.resume_or_load(True)
        except MICError as e:
            one_line(e)


# -------------------------------------------------------------------------- metrics, configs, sets


LINES = st.one_of(
    st.binary(max_size=20),
    st.dictionaries(TEXTS | st.sampled_from(["iteration", "total_loss", "bbox/AP", "lr"]), NESTED, max_size=4).map(
        lambda x: json.dumps(x).encode()
    ),
    st.just(b"[" * 5000), st.just(b'{"iteration": 1e999}'), st.just(b'{"iteration": ' + b"9" * 5000 + b"}"),
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def test_run_folders(folder):
    @trials(60)
    @given(st.lists(LINES, max_size=4), st.binary(max_size=30) | NESTED.map(lambda x: json.dumps(x).encode()))
    def run(lines, config):
        good = json.dumps({"iteration": 19, "total_loss": 1.0, "lr": 0.1}).encode()
        (folder / "metrics.json").write_bytes(b"\n".join([good, *lines]))
        (folder / "config.yaml").write_bytes(config)
        try:
            assert "<html" in build_report([read_run(folder)])
        except DataError as e:
            one_line(e)

    run()


KEYS = st.sampled_from(
    ["MODEL", "SOLVER", "DATASETS", "MIC", "CUSTOM", "TRAIN", "BASE_LR", "STEPS", "MAX_ITER", "SEED", "_BASE_",
     "MASK", "RATIO", "OUTPUT_DIR", "INPUT", "FORMAT", "DEVICE", "WEIGHTS", "VERSION", "<<", "NUM_CLASSES", "ROI_HEADS"]
)  # fmt: skip
TREES = st.recursive(
    PLAIN, lambda x: st.lists(x, max_size=3) | st.dictionaries(KEYS | TEXTS, x, max_size=3), max_leaves=10
)
ODD_YAML = [
    "SEED: 2001-99-99", "SEED: " + "9" * 5000, "SEED: 1e999999", "a: &a [*a]", "a: &a {b: *a}", "? [1]\n: 2",
    "SEED: !!binary x", "<<: 3", "<<: [1]", "SEED: 0x", "SEED: 1:60:99", "SEED: !!set {a}", "SEED: !!timestamp x",
    "%YAML 9.9\n---\nSEED: 1", "--- 1\n--- 2", "[" * 3000, "SEED: !!omap [a: 1]", "SEED: !!pairs [1]",
    "MODEL: null", "SOLVER: []", "SEED: .nan", "SEED: \"\\0\"", "OUTPUT_DIR: \"\\ud800\"", "OUTPUT_DIR: \"a\\0b\"",
    "_BASE_: \"\\0\"", "_BASE_: ''", "!!python/name:os.system x",
]  # fmt: skip


def check_config(file):
    with forget_registered_sets():
        try:
            load_config(str(file))
        except (ConfigError, DataError) as e:
            one_line(e)


def test_configs(folder):
    @trials(150)
    @given(TREES | st.binary(max_size=40))
    def run(tree):
        content = tree
        if not isinstance(tree, bytes):
            content = yaml.safe_dump(tree, allow_unicode=False).encode("utf-8", "surrogatepass")
        (folder / "fuzz.yaml").write_bytes(content)
        check_config(folder / "fuzz.yaml")

    run()


@pytest.mark.parametrize("number", range(len(ODD_YAML)))
def test_odd_yaml(folder, number):
    (folder / "odd.yaml").write_text(ODD_YAML[number])
    check_config(folder / "odd.yaml")


def test_yaml_that_stands_for_billions_is_refused_at_once(folder):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    (folder / "bomb.yaml").write_text("\n".join(lines))
    with pytest.raises(ConfigError, match="bomb.yaml is refused: its YAML aliases stand for"):
        load_config(str(folder / "bomb.yaml"))
    (folder / "base.yaml").write_text("_BASE_: bomb.yaml")
    with pytest.raises(ConfigError, match="bomb.yaml is refused"):
        load_config(str(folder / "base.yaml"))
    (folder / "merge.yaml").write_text("\n".join(
        ["a0: &a0 {k: 1}"] + [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 12)]
    ))  # fmt: skip
    with pytest.raises(ConfigError, match="merge.yaml is refused"):
        load_config(str(folder / "merge.yaml"))
    (folder / "long.yaml").write_text("# " + "x" * 2**20)
    with pytest.raises(ConfigError, match="long.yaml is refused: it has"):
        load_config(str(folder / "long.yaml"))
    # the report of a run reads a config too
    (folder / "config.yaml").write_text("\n".join(lines))
    (folder / "metrics.json").write_text('{"iteration": 19, "total_loss": 1.0}')
    run = read_run(folder)
    assert run.config == {} and any("config.yaml cannot be read" in n for n in run.notes)
