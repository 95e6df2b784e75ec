"""The plan of the house, read from the imports: floors, circles, sizes, and who may name what."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# From the top down. A room may use those on floors below its own, and nothing beside or above it.
FLOORS = (
    ("__main__",),
    ("cli",),
    ("ui",),
    ("jobs", "bench", "embedded"),
    ("tuning", "evaluation"),
    ("planning",),
    ("captioning",),
    ("models", "scoring", "curation"),
    ("methods", "data", "records"),
    ("hub", "commits", "settings", "appending"),
    ("errors", "faults", "files", "locks", "progress", "proxies", "words"),
)
LONGEST = 350  # lines
# What is one model family's own may be named in that family's file alone.
FAMILIES = "qvla/models/families/"
CLASS_NAME = re.compile(r"\b(?:PaliGemma|Gemma|Siglip)\d?[A-Z]\w*")
MODULE_NAME = re.compile(
    r"\b(?:language_model|vision_tower|multi_modal_projector|lm_head|embed_tokens)\b"
)


@dataclass(frozen=True)
class Import:
    """One import of one module of ours by another, and where it stands."""

    importer: str
    imported: str
    place: str


def modules(root: Path) -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted((root / "qvla").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def nodes(path: Path) -> list[ast.AST]:
    """All that a file consists of; each is read once."""
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imports(root: Path) -> Iterator[Import]:
    """All imports within the package, wherever in a file they stand."""
    known = modules(root)
    for importer, path in known.items():
        for node in nodes(path):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                module = node.module or ""
                if node.level:
                    base = importer.split(".")
                    base = base[: len(base) - node.level + (path.name == "__init__.py")]
                    module = ".".join([*base, *filter(None, [node.module])])
                names = [f"{module}.{alias.name}" for alias in node.names]
                names = [name if name in known else module for name in names]
            for name in names:
                if name in known:
                    place = f"{path.relative_to(root)}:{node.lineno}"
                    yield Import(importer, name, place)


def room(module: str) -> str | None:
    return module.split(".")[1] if "." in module else None


def wrong_ways(root: Path) -> list[str]:
    """Imports that go up, or across to another room of the same floor."""
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    wrong = []
    for one in imports(root):
        here, there = room(one.importer), room(one.imported)
        if here is None or there is None or here == there:
            continue
        if here not in floor:
            wrong.append(f"{one.place}: {here} stands on no floor")
        elif floor[there] <= floor[here]:
            wrong.append(f"{one.place}: {one.importer} uses {one.imported}, which is not below it")
    return wrong


def circles(root: Path) -> list[str]:
    """Modules that need each other, each circle once, as the lines that close it."""
    lines: dict[str, dict[str, str]] = {}
    for one in imports(root):
        if one.importer != one.imported:
            lines.setdefault(one.importer, {})[one.imported] = one.place
    done: set[str] = set()
    found = []

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            ring = [*path[path.index(module) :], module]
            steps = itertools.pairwise(ring)
            found.append("; ".join(f"{lines[a][b]}: {a} uses {b}" for a, b in steps))
        elif module not in done:
            for other in lines.get(module, {}):
                visit(other, [*path, module])
            done.add(module)

    for module in lines:
        visit(module, [])
    return found


def named(node: ast.AST) -> Iterator[str]:
    """The names and texts in one node of a file's tree."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    for field in ("id", "attr", "arg", "name", "module"):
        value = getattr(node, field, None)
        if isinstance(value, str):
            yield value


def docstrings(path: Path) -> set[ast.AST]:
    """Texts that stand by themselves, which nothing reads."""
    return {node.value for node in nodes(path) if isinstance(node, ast.Expr)}


def familiar(root: Path) -> list[str]:
    """Lines outside the families that name a class or a module of one."""
    found = []
    for path in modules(root).values():
        place = str(path.relative_to(root))
        if place.startswith(FAMILIES):
            continue
        told = docstrings(path)
        for node in nodes(path):
            for text in () if node in told else named(node):
                if match := CLASS_NAME.search(text) or MODULE_NAME.search(text):
                    found.append(f"{place}:{node.lineno}: names {match[0]}")
    return found


def is_method(node: ast.AST) -> bool:
    """Whether this is somebody's `method`, by whatever name it is got at."""
    if isinstance(node, ast.Subscript):
        node = node.slice
    name = getattr(node, "attr", None) or getattr(node, "id", None) or getattr(node, "value", None)
    return name == "method"


def asking_for_a_method(root: Path) -> list[str]:
    """Lines that compare a method's name with a text instead of reading the registry."""
    found = []
    for path in modules(root).values():
        for node in nodes(path):
            sides = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
            if not any(map(is_method, sides)):
                continue
            parts = itertools.chain.from_iterable(map(ast.walk, sides))
            values = [part.value for part in parts if isinstance(part, ast.Constant)]
            for name in [one for one in values if isinstance(one, str) and one != "method"][:1]:
                place = f"{path.relative_to(root)}:{node.lineno}"
                found.append(f"{place}: asks whether a method is {name}")
    return found


def test_nobody_asks_which_method_it_is() -> None:
    assert asking_for_a_method(ROOT) == []


def test_only_a_familys_file_names_its_classes_and_modules() -> None:
    assert familiar(ROOT) == []


def test_arrows_go_down() -> None:
    assert wrong_ways(ROOT) == []


def test_contributors_are_told_the_same_floors() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    told = text.split("```text\n")[1].split("```")[0].splitlines()
    assert [tuple(line.split(", ")) for line in told] == list(FLOORS)
    assert f"more than {LONGEST} lines" in text
    for name in re.findall(r"`((?:qvla|tests)/[\w/.]+)`", text):
        assert (ROOT / name).exists(), name


def test_there_is_no_circle() -> None:
    assert circles(ROOT) == []


def test_no_file_is_too_long() -> None:
    sizes = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in modules(ROOT).values()
    }
    assert {name: size for name, size in sizes.items() if size > LONGEST} == {}


def test_the_core_knows_no_gradio() -> None:
    users = []
    for name, path in modules(ROOT).items():
        if room(name) == "ui":
            continue
        for node in nodes(path):
            named = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                named = [node.module or ""]
            if any(one.split(".")[0] == "gradio" for one in named):
                users.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert users == []


def test_every_test_lies_in_the_folder_of_what_it_tests() -> None:
    rooms = {path.name for path in (ROOT / "qvla").iterdir() if path.is_dir()}
    folders = {path.parent.relative_to(ROOT / "tests") for path in ROOT.glob("tests/*/**/*.py")}
    tops = {folder.parts[0] for folder in folders}
    assert tops - rooms == {"browser", "support"}
    inner = {folder for folder in folders if len(folder.parts) > 1}
    assert {str(folder) for folder in inner if not (ROOT / "qvla" / folder).is_dir()} == set()
    borrowed = [
        f"{path.relative_to(ROOT)}: {line}"
        for path in ROOT.glob("tests/**/*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith("from tests.") and ".test_" in line.split(" import ")[0]
    ]
    assert borrowed == []


@pytest.mark.parametrize(
    ("files", "check", "told"),
    [
        (
            {"data/one.py": "", "scoring/two.py": "", "data/three.py": "import qvla.scoring.two\n"},
            wrong_ways,
            "qvla/data/three.py:1: qvla.data.three uses qvla.scoring.two, which is not below it",
        ),
        (
            {
                "tuning/one.py": "x = 1\n\nfrom qvla.evaluation import two\n",
                "evaluation/two.py": "",
            },
            wrong_ways,
            "qvla/tuning/one.py:3: qvla.tuning.one uses qvla.evaluation.two, which is not below it",
        ),
        (
            {
                "data/one.py": "def f():\n    from qvla.data import two\n",
                "data/two.py": "from qvla.data.one import f\n",
            },
            circles,
            "qvla/data/one.py:2: qvla.data.one uses qvla.data.two; "
            "qvla/data/two.py:1: qvla.data.two uses qvla.data.one",
        ),
        (
            {
                "models/families/one.py": "from transformers import PaliGemmaConfig\n",
                "models/one.py": '"""Of Gemma2Config and its lm_head."""\n\nx = "PaliGemma 2"\n',
                "models/two.py": "def f(model):\n    return model.language_model\n",
            },
            familiar,
            "qvla/models/two.py:2: names language_model",
        ),
        (
            {"data/one.py": "import transformers\n\nx = transformers.SiglipVisionModel\n"},
            familiar,
            "qvla/data/one.py:3: names SiglipVisionModel",
        ),
        (
            {"data/one.py": 'x = 1\ny = job.recipe["method"] in ("lora", "qlora")\n'},
            asking_for_a_method,
            "qvla/data/one.py:2: asks whether a method is lora",
        ),
        (
            {"data/one.py": 'y = recipe.method == "full" or recipe.kind.method.name in named\n'},
            asking_for_a_method,
            "qvla/data/one.py:1: asks whether a method is full",
        ),
        (
            {"data/one.py": 'LAYERS = rf".*language_model\\.layers"\n'},
            familiar,
            "qvla/data/one.py:1: names language_model",
        ),
    ],
)
def test_a_wrong_line_is_named(
    files: dict[str, str], check: object, told: str, tmp_path: Path
) -> None:
    for name, text in files.items():
        path = tmp_path / "qvla" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(text)
    assert check(tmp_path) == [told]
