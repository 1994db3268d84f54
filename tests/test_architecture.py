"""The house as it was drawn: what may import what, what stays out of where, what stays cheap."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import swinclf

ROOT = Path(swinclf.__file__).parent

# Each level may import those before it. A name is a module or a folder of the package.
LEVELS = [
    {
        "errors",
        "event_log",
        "export_formats",
        "files",
        "preprocess",
        "reporter",
        "device",
        "durations",
        "config",
        "metrics",
        "out_of_memory",
        "path_patterns",
        "lock",
        "latest_run",
        "parallel_batches",
        "processes",
        "run_folder",
        "settings",
        "shell_quoting",
        "unpickle",
    },
    {"confidence"},
    {"card"},
    {"data", "models", "reporting"},
    {"training", "inference", "explain", "data_quality"},
    {"pipeline", "exporting", "serving"},
    {"commands"},
    {"terminal"},
    {"api"},
    {"demo", "train_seeds"},
    {"cli"},
]
LEVEL = {name: number for number, names in enumerate(LEVELS) for name in names}
FOLDERS = {path.name for path in ROOT.iterdir() if (path / "__init__.py").is_file()}

MODULES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))
TREES = {path: ast.parse((ROOT / path).read_text(encoding="utf-8")) for path in MODULES}


def part_of(path):
    """The folder or module of the package that a file is, such as data or errors."""
    return path.parts[0].removesuffix(".py")


def is_type_checking(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def nodes_of(tree, *, at_once):
    """Every node that is ever run: imports for type checkers alone are none.

    With `at_once`, without what stands in functions, which is run later.
    """
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if not (at_once and isinstance(node, ast.FunctionDef)):
            waiting += node.orelse if is_type_checking(node) else ast.iter_child_nodes(node)


@functools.cache
def imports_of(path, *, at_once=False):
    """The dotted names of all modules that a file imports, wherever in it."""
    names = set()
    for node in nodes_of(TREES[path], at_once=at_once):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def outside(path):
    """Packages that a file imports from elsewhere."""
    return {name.partition(".")[0] for name in imports_of(path)} - {"swinclf"}


def inside(path):
    """Folders and modules of the package that a file imports."""
    parts = {name.split(".")[1] for name in imports_of(path) if name.startswith("swinclf.")}
    return parts & set(LEVEL)


@functools.cache
def calls_in(path):
    """Every call in a file: what is called, as it is written, and its keywords with values."""
    return [
        (ast.unparse(node.func), {one.arg: ast.unparse(one.value) for one in node.keywords})
        for node in ast.walk(TREES[path])
        if isinstance(node, ast.Call)
    ]


def below(*names):
    return [path for path in MODULES if part_of(path) in names]


def test_every_part_has_its_level():
    parts = {part_of(path) for path in MODULES} - {"__init__", "__main__"}
    assert parts == set(LEVEL), "a new folder or module needs a place in LEVELS"


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_a_level_imports_only_levels_before_it(path):
    own = part_of(path)
    if own in ("__init__", "__main__"):
        return
    for other in inside(path) - {own}:
        if LEVEL[other] == LEVEL[own] == 0:
            continue  # the ground floor is one floor; that it has no circle is tested below
        assert LEVEL[other] < LEVEL[own], f"{path} imports {other}"


def test_folders_on_one_level_do_not_know_each_other():
    for path in MODULES:
        own = part_of(path)
        siblings = {other for other in inside(path) if LEVEL[other] == LEVEL.get(own)} & FOLDERS
        assert siblings <= {own}, path


def test_a_name_that_begins_with_a_line_stays_in_its_module():
    for path in MODULES:
        taken = {name.rpartition(".")[2] for name in imports_of(path) if "swinclf." in name}
        assert not [name for name in taken if name[0] == "_" and name[1] != "_"], path


def test_no_module_imports_itself_through_others():
    known = {".".join(("swinclf", *path.with_suffix("").parts)): path for path in MODULES}
    graph = {name: imports_of(path, at_once=True) & set(known) for name, path in known.items()}
    done = set()

    def visit(name, trail):
        assert name not in trail, " -> ".join((*trail, name))
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())
    assert done == set(known)


def test_no_command_knows_another():
    for path in below("commands"):
        others = {name for name in imports_of(path) if name.startswith("swinclf.commands.")}
        assert not others, f"{path} imports {others}"


def test_only_the_command_line_knows_terminals():
    for path in MODULES:
        if part_of(path) not in ("cli", "__main__", "terminal"):
            assert not outside(path) & {"typer", "rich", "click"}, path
    assert not outside(Path("terminal.py")) & {"typer", "click"}


def test_the_library_neither_prints_nor_exits():
    for path in MODULES:
        if part_of(path) in ("cli", "__main__", "terminal"):
            continue
        for called, _ in calls_in(path):
            assert called not in ("print", "input", "exit", "quit", "sys.exit"), path
            assert called not in ("sys.stdout.write", "sys.stderr.write"), path
            assert called != "logging.basicConfig", path


def test_who_knows_which_library():
    allowed = {
        "PIL": {
            *("data", "data_quality", "inference", "training", "reporting", "explain"),
            *("commands", "demo"),
        },
        "torch": {
            *("models", "training", "inference", "exporting", "explain", "data", "device"),
            *("parallel_batches", "processes", "pipeline", "commands", "unpickle"),
        },
        "timm": {"models", "training"},  # training: Muon
        "matplotlib": {"demo", "reporting", "explain"},
        "sklearn": {"demo", "confidence", "data_quality"},
        "onnx": {"exporting", "commands"},
        "onnxruntime": {"inference", "commands"},
        **dict.fromkeys(("fastapi", "starlette", "uvicorn", "prometheus_client"), {"serving"}),
        "huggingface_hub": {"models", "commands"},
    }
    for path in MODULES:
        for library in outside(path) & set(allowed):
            assert part_of(path) in allowed[library], f"{path} imports {library}"


def test_reporting_never_imports_torch_and_models_never_pillow():
    for path in below("reporting"):
        assert not outside(path) & {"torch", "timm", "torchvision"}, path
    for path in below("models"):
        assert not outside(path) & {"PIL", "torchvision"}, path


def test_nothing_executes_what_is_in_a_file():
    for path in MODULES:
        assert not outside(path) & {"dill", "cloudpickle", "joblib", "shelve", "marshal"}, path
        for called, keywords in calls_in(path):
            assert called not in ("eval", "exec", "pickle.load", "pickle.loads"), path
            assert not called.endswith(("Unpickler", "hub.load_state_dict_from_url")), path
            if called == "torch.load":
                assert keywords.get("weights_only") == "True", path
            if called == "np.load":
                assert keywords.get("allow_pickle", "False") == "False", path


def test_nothing_is_loaded_in_part():
    for path in MODULES:
        for called, keywords in calls_in(path):
            if called.endswith("load_state_dict"):
                assert keywords.get("strict", "True") == "True", path


def public_names(body):
    """Functions, classes and their methods, but for those whose name begins with a line."""
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield node
            yield from public_names(node.body if isinstance(node, ast.ClassDef) else [])


def test_every_module_and_public_name_says_what_it_is():
    for path, tree in TREES.items():
        assert ast.get_docstring(tree), path
        for node in public_names(tree.body):
            assert ast.get_docstring(node), f"{path}: {node.name}"


# What is not loaded after each step of one process.
STEPS = """
import sys, swinclf
from pathlib import Path
def absent(*names):
    assert not {*names} & sys.modules.keys(), [*sys.modules]
assert {*swinclf.__all__} <= {*dir(swinclf)}
swinclf.Reporter, swinclf.TrainOptions
absent("torch", "timm", "numpy", "rich")
from swinclf.commands.runs import list_runs
assert list_runs(Path(sys.argv[1]))
absent("torch", "numpy", "PIL")
import swinclf.data.dataset, swinclf.data.loader, swinclf.metrics, swinclf.commands.check
absent("torch", "torchvision", "timm", "matplotlib", "sklearn")
import torch
from swinclf.training.optim import LBFGS, AdamW
weight = torch.ones(2, requires_grad=True)
for optimizer in (AdamW([weight], fused=True), LBFGS([weight])):
    optimizer.zero_grad()
    weight.square().sum().backward()
    optimizer.step(lambda: weight.detach().square().sum())
    optimizer.load_state_dict(optimizer.state_dict())
assert weight.tolist() != [1, 1]
absent("torch._dynamo")
from swinclf.models.names import Architecture, build_native, list_backbones
import swinclf.models.weights.adapt
assert list_backbones("swin")
build_native(Architecture("vit_tiny_patch16_224", "native", 2))
absent("timm")
"""


def test_what_is_slow_to_import_is_loaded_where_it_is_needed(trained):
    words = [sys.executable, "-c", STEPS, trained.path.parent]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_public_names_are_there_and_no_others():
    for name in swinclf.__all__:
        assert getattr(swinclf, name).__doc__, name
        assert getattr(swinclf, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = swinclf.no_such_name


WRITERS = {  # who may open a file to write to it
    Path("files.py"): "the file is replaced when it is complete",
    Path("cli/streams.py"): "os.devnull",
    Path("latest_run.py"): "runs/latest where links are not allowed",
    Path("lock.py"): "the lock",
}


def test_only_one_module_writes_the_files_of_users():
    for path in MODULES:
        for called, keywords in calls_in(path):
            if path in WRITERS or called in ("files.write_text", "files.write_bytes"):
                continue
            assert not called.endswith((".write_text", ".write_bytes", ".tofile")), path
            assert called not in ("np.save", "np.savez", "torch.save", "save_file"), path
            if called.endswith("open"):
                assert not set(keywords.get("mode", "").strip("'\"")) & set("wax+"), path
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("open"):
                modes = [ast.unparse(one).strip("'") for one in node.args]
                opens = [mode for mode in modes if re.fullmatch("[rwaxbt+]{1,3}", mode)]
                writes = [mode for mode in opens if set(mode) & set("wax+")]
                assert path in WRITERS or not writes, f"{path}: {ast.unparse(node)}"


def test_no_function_and_no_file_is_too_long():
    for path, tree in TREES.items():
        assert len((ROOT / path).read_text(encoding="utf-8").splitlines()) <= 450, path
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = node.end_lineno - node.lineno + 1  # decorators not counted
                assert lines <= 60, f"{path}: {node.name} has {lines} lines"


def test_no_public_name_and_no_file_name_occurs_twice():
    """`api` has the commands as functions, under the same names."""
    names = Counter(
        node.name
        for path, tree in TREES.items()
        if path != Path("api.py")
        for node in tree.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
    )
    stems = Counter(path.stem for path in TREES if not path.stem.startswith("_"))
    assert {name: count for name, count in names.items() if count > 1} == {}
    assert {stem: count for stem, count in stems.items() if count > 1} == {}


PAPERS = [Path("models/swin.py"), Path("models/vit.py"), Path("models/layers.py")]
# Words of names, attributes and keywords that belong to models/accelerated.
OF_MACHINES = {
    *("device", "cpu", "cuda", "mps", "is_cuda", "set_num_threads", "ops", "autocast", "amp"),
    *("dtype", "float16", "bfloat16", "float32", "float64", "half", "double", "element_size"),
    *("cache", "lru_cache", "weakref", "WeakKeyDictionary", "autograd", "Function"),
    *("requires_grad", "inference_mode"),
}


def words_of(tree):
    """Every name, attribute, keyword, imported word and string of a file; of cuda:0, cuda."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.keyword) and node.arg:
            yield node.arg
        elif isinstance(node, ast.alias):
            yield from node.name.split(".")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value.split(":")[0]


def test_networks_read_like_their_papers():
    lines = sum(len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in PAPERS)
    assert lines <= 900
    for path in PAPERS:
        found = set(words_of(TREES[path])) & OF_MACHINES
        assert not found, f"{path}: {found} belong in models/accelerated"
        known = {name for name in imports_of(path) if name.startswith("swinclf.models.")}
        assert not {name for name in known if name.startswith("swinclf.models.accelerated")}, path


def test_networks_are_accelerated_in_one_place():
    for path in MODULES:
        if path.parts[:2] == ("models", "accelerated"):
            continue
        names = {name for name in imports_of(path) if name.startswith("swinclf.models.accelerated")}
        assert bool(names) == (path == Path("models/build.py")), path
