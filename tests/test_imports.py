"""The arrows between our modules go one way: what a folder may import is written here and nowhere else."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import embervlm

ROOT = Path(embervlm.__file__).parent
MODULES = {
    ".".join(["embervlm", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}

_BASE = ("errors", "tokens", "bpe", "console", "device", "files", "journal", "options", "processes", "settings")
_PARTS = (*_BASE, "data", "distill", "model", "batch", "teachers")
ARROWS = {
    # from -> what it may import of ours, besides its own folder
    "errors": (),
    "console": (),
    "device": ("errors",),
    "files": (),
    "journal": ("errors",),
    "processes": ("errors",),
    "options": ("errors",),
    "settings": ("errors", "options"),
    "tokens": ("errors",),
    "bpe": ("errors", "tokens"),
    "data": ("errors", "bpe", "console", "options", "settings"),
    "distill": ("errors", "tokens", "teachers.outputs"),  # outputs holds types only
    "teachers": (*_BASE, "data"),
    "model": (*_BASE, "data", "distill"),
    "batch": ("errors", "tokens", "data", "distill", "teachers.outputs", "teachers.shards"),  # shards: files of arrays
    "evaluate": _PARTS,
    "lesson": (*_PARTS,),
    "inspection": (*_PARTS, "evaluate", "lesson"),
    "answering": (*_BASE, "data", "teachers", "evaluate"),
    "integrations": (*_BASE, "data", "model"),
    "train": (*_PARTS, "evaluate", "lesson", "inspection"),
    "cli": ("errors", "console", "options"),  # the verbs are loaded by name
    "demo": (*_PARTS, "answering", "evaluate", "inspection", "train"),
}
"""errors, tokens <- data <- batch; model; distill; teachers; train and evaluate above them; nothing imports cli."""

HEAVY = {"torch", "torchvision", "transformers", "timm", "accelerate", "safetensors"}
LIGHT = ("errors", "tokens", "bpe", "console", "options", "settings", "data", "cli")


def imports_of(name: str) -> set[str]:
    """Dotted names that a module imports, also inside functions and for types; names of ours down to the module."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively; write the full name"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else str(node.module))
    return found


def ours(name: str) -> set[str]:
    return {found for found in imports_of(name) if found.partition(".")[0] == "embervlm"}


def part(name: str) -> str:
    return name.split(".")[1]


INNER = [name for name in MODULES if name != "embervlm"]


@pytest.mark.parametrize("name", INNER)
def test_arrows_go_one_way(name: str) -> None:
    """A folder that reaches upwards can no longer be read, tested or used alone."""
    allowed = {f"embervlm.{other}" for other in (part(name), *ARROWS[part(name)])}
    for found in ours(name):
        assert any(f"{found}.".startswith(f"{place}.") for place in allowed), f"{name} must not import {found}"


@pytest.mark.parametrize("name", [name for name in INNER if part(name) in LIGHT])
def test_light_modules_load_no_torch(name: str) -> None:
    """Preparing data and reading `--help` must not wait for torch."""
    heavy = {found for found in imports_of(name) if found.partition(".")[0] in HEAVY}
    assert not heavy, f"{name} imports {heavy}"


def test_no_module_imports_itself_through_others() -> None:
    try:
        TopologicalSorter({name: ours(name) - {name} for name in MODULES}).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


def test_every_folder_has_its_arrows() -> None:
    """A new folder says here where it stands."""
    assert {part(name) for name in INNER} <= set(ARROWS)
