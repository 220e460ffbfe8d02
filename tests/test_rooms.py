"""The folders of mic_det import from those below them alone, as docs/architecture.md says."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "mic_det"
# from the ground up; rooms of one line do not import each other, except within the first
FLOORS = (
    {"errors", "utils"}, {"config"}, {"data"}, {"modeling"}, {"checkpoint"}, {"evaluation"}, {"inference"},
    {"visualization"}, {"deploy"}, {"engine"}, {"experiments", "benchmark"}, {"cli"},
)  # fmt: skip
FLOOR = {room: i for i, rooms in enumerate(FLOORS) for room in rooms}


def imported_rooms(file):
    """(line, room) of each import of a module of mic_det, wherever in the file it stands."""
    package = ("mic_det", *file.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [x.name.split(".") for x in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            module = base + (node.module.split(".") if node.module else [])
            names = [module] if len(module) > 1 else [[*module, x.name] for x in node.names]
        else:
            continue
        for name in names:
            if name[0] == "mic_det" and len(name) > 1 and name[1] in FLOOR:
                yield node.lineno, name[1]


def test_no_import_points_upwards():
    wrong = []
    for file in sorted(PACKAGE.rglob("*.py")):
        room = file.relative_to(PACKAGE).parts[0].replace(".py", "")
        if room == "__init__":  # the public names of all rooms
            continue
        for line, other in imported_rooms(file):
            same_floor = other != room and FLOOR[other] == FLOOR[room] != 0
            if FLOOR[other] > FLOOR[room] or same_floor:
                wrong.append(f"{file.relative_to(PACKAGE)}:{line} imports from {other}")
    assert not wrong


def test_every_room_has_a_floor():
    rooms = {p.name.replace(".py", "") for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()}
    assert rooms - {"__init__"} == FLOOR.keys()
