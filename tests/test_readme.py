"""What the README and its companions say can be run, found and followed."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch

import milkernels
from benchmarks import results, summary
from milkernels import functional, nn
from models import list_models

ROOT = Path(__file__).parents[1]
DOCUMENTS = (
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md"),
    "models/README.md",
)
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def anchor(heading: str) -> str:
    """The fragment that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def commands(text: str) -> list[tuple[str, list[str]]]:
    """Modules that `python -m` is to run, with the options given to them."""
    found = re.findall(r"python -m ([\w.]+)([^`\n#]*)", text)
    return [(module, re.findall(r"--[\w-]+", rest)) for module, rest in found]


@pytest.fixture
def automatic_backend():
    yield
    milkernels.backend("auto")


def test_the_python_blocks_run(automatic_backend, capsys):
    names: dict[str, object] = {}
    assert blocks("python")
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    assert names["clip"].shape == (8, 17)
    assert names["pool"].power.grad.isfinite().all()
    assert "serves" in capsys.readouterr().out


def test_the_changed_head_computes_what_the_old_one_did():
    (diff,) = blocks("diff")
    heads = []
    for dropped in "+-":
        lines = [line[1:] for line in diff.splitlines() if not line.startswith(dropped)]
        names = {"torch": torch, "milkernels": milkernels}
        exec(compile("\n".join(lines), "README.md", "exec"), names)
        heads.append(names["Head"](6, 4))
    before, after = heads
    after.load_state_dict(before.state_dict())
    hidden = torch.randn(3, 20, 6)
    assert torch.allclose(before(hidden), after(hidden), atol=1e-6)


def test_the_tests_that_it_names_are_there():
    named = re.findall(r"\]\((tests/\w+\.py)\) `(test_\w+)`", README)
    assert named
    for path, test in named:
        assert f"def {test}(" in (ROOT / path).read_text(), test


def test_the_tables_name_every_function_and_module_and_nothing_else():
    rows = re.findall(
        r"^\| (?:`(\w+)\(.*?\)` )?\| (?:`(\w+)(?:\(.*?\))?` )?\|", README, re.MULTILINE
    )
    functions = {function for function, _ in rows if function}
    modules = {module for function, module in rows if module and hasattr(nn, module)}
    assert functions == set(functional.__all__) - {"frame_weights"}
    helpers = {"FramePool", "build_pooling", "list_poolings"}
    assert modules == set(nn.__all__) - helpers
    named = {name.removesuffix("_pool") for name in functions}
    assert set(nn.list_poolings()) <= named


def test_the_table_of_systems_names_each_model_and_nothing_else():
    table = README.partition("### The published systems")[2].partition("```")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list_models()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_python_command_is_a_module_that_takes_its_options(document):
    for module, options in commands((ROOT / document).read_text()):
        spec = importlib.util.find_spec(module)
        assert spec is not None, module
        if module.partition(".")[0] in ("models", "benchmarks", "stress"):
            program = Path(spec.origin)
            source = "".join(
                path.read_text() for path in program.parent.glob(f"{program.stem}*.py")
            )
            # Options that programs share are in a module of their own.
            for shared in re.findall(r"from models\.(\w+_arguments) import", source):
                source += (ROOT / "models" / f"{shared}.py").read_text()
            # argparse makes the --no- form of a switch itself.
            taken = [name.replace("--no-", "--") for name in options]
            assert [name for name in taken if f'"{name}"' not in source] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_make_target_exists(document):
    text = (ROOT / document).read_text()
    asked = set(re.findall(r"(?:^ {4}|`)make (\w+)", text, re.MULTILINE))
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert asked <= set(targets)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_local_link_leads_somewhere(document):
    path = ROOT / document
    links = re.findall(r"\]\(([^)\s]+)\)", path.read_text())
    for link in links:
        if link.startswith(("http:", "https:")):
            continue
        name, _, fragment = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), link
        if fragment:
            headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            assert fragment in map(anchor, headings), link


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_environment_variable_is_read_by_something(document):
    asked = set(re.findall(r"MILKERNELS_\w+", (ROOT / document).read_text()))
    sources = [ROOT / "setup.py", *ROOT.glob("csrc/*.cpp"), *ROOT.glob("tests/*.py")]
    assert [name for name in asked if not any(name in s.read_text() for s in sources)] == []


def test_every_file_named_in_contributing_is_there():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    paths = set(re.findall(r"`([\w./-]+\.(?:py|h|cpp|md|toml))`", text))
    folders = (ROOT, ROOT / "milkernels", ROOT / "tests")
    missing = [p for p in paths if not any((folder / p).exists() for folder in folders)]
    assert missing == []


def test_every_file_of_contributings_layout_is_there():
    layout = (ROOT / "CONTRIBUTING.md").read_text().split("## Layout")[1].split("\n\n")[1]
    missing, folders = [], []
    for depth, names in re.findall(r"^ {4}((?:  ){0,3})(\S.*?)(?:  .*)?$", layout, re.MULTILINE):
        folders = folders[: len(depth) // 2]
        missing += [
            name for name in names.split(", ") if not any(ROOT.joinpath(*folders).glob(name))
        ]
        if names.endswith("/"):
            folders.append(names)
    assert "csrc/" in layout
    assert missing == []


def test_the_readmes_speeds_are_those_of_the_committed_table():
    table = results.read(ROOT / "benchmarks" / "results" / "cpu.csv")
    lines = list(summary.headline(table))
    assert len(lines) > 2
    assert "\n".join(lines) in README
