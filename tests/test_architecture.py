"""The layers of the package: which module may import which."""

import ast
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path
from types import ModuleType

import skorchless

ROOT = Path(skorchless.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# From the lowest layer to the highest. A module imports from its own layer and from lower ones.
LAYERS = (
    {"_version", "restoring", "stack", "distributed", "losses", "penalties"},
    {"data"},
    {"objective"},
    {"optimizers"},
    {"training"},
    {"estimators"},
    {"model_selection", "display"},
    {"__init__"},
)
FIRST_TO_KNOW_SKLEARN = 5

# What would make a tensor on torch's default device.
FACTORIES = (
    *("arange", "as_tensor", "empty", "eye", "full", "linspace", "logspace", "normal", "ones"),
    *("rand", "randint", "randn", "randperm", "tensor", "tril_indices", "triu_indices", "zeros"),
)


def module_name(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def imports_of(tree):
    """Full names of what `tree` imports, down to the name after ``import``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def run_at_import(tree):
    """The statements of a module outside functions."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from run_at_import(node)


def imported_modules(path):
    """Modules of this package that a file imports."""
    for name in imports_of(ast.parse(path.read_text())):
        if name.partition(".")[0] == "skorchless":
            yield name if name in MODULES else name.rpartition(".")[0]


def layer(module):
    top = [*module.split("."), "__init__"][1]
    return next(level for level, modules in enumerate(LAYERS) if top in modules)


def exported(path):
    """What a file lists in ``__all__``."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            yield from ast.literal_eval(node.value)


def test_every_module_is_in_a_layer():
    modules = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in FILES}
    assert sorted(modules) == sorted(module for layer in LAYERS for module in layer)


def test_no_import_goes_upwards():
    for path in FILES:
        own = layer(module_name(path))
        upwards = [module for module in imported_modules(path) if layer(module) > own]
        assert upwards == [], path


def test_imports_form_no_circle():
    graph = {module: set(imported_modules(path)) for module, path in MODULES.items()}
    order = tuple(TopologicalSorter(graph).static_order())
    assert order.index("skorchless.stack") < order.index("skorchless.training")


def test_scikit_learn_is_unknown_below_the_estimators():
    for path in FILES:
        names = {name.partition(".")[0] for name in imports_of(ast.parse(path.read_text()))}
        assert "sklearn" not in names or layer(module_name(path)) >= FIRST_TO_KNOW_SKLEARN, path


def test_matplotlib_is_not_imported_with_the_module():
    for path in FILES:
        names = [
            name
            for node in run_at_import(ast.parse(path.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in imports_of(node)
        ]
        assert not [name for name in names if name.partition(".")[0] == "matplotlib"], path


def test_every_new_tensor_names_its_device():
    calls = [(path, call) for path in FILES for call in ast.walk(ast.parse(path.read_text()))]
    for path, call in calls:
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
            made = ast.unparse(call.func.value) == "torch" and call.func.attr in FACTORIES
            named = [keyword.arg for keyword in call.keywords]
            assert not made or "device" in named, f"{path.name}, line {call.lineno}"


def test_nothing_is_exported_twice():
    inner = Counter(name for path in FILES if path.parent != ROOT for name in exported(path))
    assert [name for name, times in inner.items() if times > 1] == []
    assert len(set(skorchless.__all__)) == len(skorchless.__all__)


def test_all_lists_what_is_public():
    public = {
        name
        for name, value in vars(skorchless).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
        if getattr(value, "__module__", "skorchless").startswith("skorchless")
    }
    public |= {"BatchedGridSearchCV", "BatchedRandomizedSearchCV"}  # imported when asked for
    assert public == set(skorchless.__all__)
    assert all(getattr(skorchless, name).__module__.startswith("skorchless") for name in public)
