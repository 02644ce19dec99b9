"""The house: imports point down, and one file alone knows Captum's private names."""

import ast
from pathlib import Path

import captum_cams

ROOT = Path(captum_cams.__file__).parent

FLOORS = [
    ["_captum", "_nested"],
    ["_validation", "attr.registry", "module_search", "watch"],
    ["blur", "quadrature"],
    [
        "path",
        "masks",
        "refine",
        "reshape",
        "model_state",
        "missing_gradients",
        "examples",
    ],
    ["target_output"],
    ["layer_capture"],
    ["layer_eval", "baselines"],
    ["path_eval", "layer_ablation", "metrics._metric"],
    ["attr._pooling", "attr._cam", "attr._mask_scores", "metrics._faithfulness"],
    ["attr._path_cam"],
    ["attr", "metrics", "visualization"],
    ["augmentation"],
    ["__init__"],
    ["evaluation"],
    ["_cli_parser"],
    ["cli"],
    ["__main__"],
]
DOORS = {
    "attr.__init__": 11,
    "metrics.__init__": 11,
    "examples.__init__": 3,
}


def name_of(file):
    return ".".join(file.relative_to(ROOT).with_suffix("").parts)


def floor(name):
    if name in DOORS:
        return DOORS[name]
    names = [name, name.split(".")[0]]
    for wanted in names:
        for number, floor in enumerate(FLOORS):
            if wanted in floor:
                return number
    raise AssertionError(f"{name} has no floor")


def imports(file):
    package = name_of(file).split(".")[:-1]
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        # What only type checkers read is not imported.
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ["captum_cams", *package[: len(package) - node.level + 1]]
            module = node.module if not node.level else ".".join([*base, node.module])
            submodules = [f"{module}.{alias.name}" for alias in node.names]
            modules = [m if exists(m) else module for m in submodules]
        else:
            continue
        yield from modules


def exists(module):
    path = ROOT.parent.joinpath(*module.split("."))
    return path.with_suffix(".py").exists() or path.is_dir()


def target(module):
    """The module's name inside the package, a package's being its door."""
    path = ROOT.parent.joinpath(*module.split("."))
    name = module.removeprefix("captum_cams").lstrip(".")
    return f"{name}.__init__".lstrip(".") if path.is_dir() else name


FILES = sorted(ROOT.rglob("*.py"))


def test_imports_point_down():
    breaches = []
    for file in FILES:
        here = name_of(file)
        for module in imports(file):
            if not module.startswith("captum_cams"):
                continue
            there = target(module)
            inside = (
                here.split(".")[0] == there.split(".")[0] in ("examples", "evaluation")
            )
            if floor(there) >= floor(here) and not inside:
                breaches.append(f"{here} imports {there}")
    assert not breaches


def test_captums_private_names_stay_in_one_file():
    private = ("captum._utils", "captum.attr._", "captum.metrics._", "captum.log")
    breaches = [
        f"{name_of(file)} imports {module}"
        for file in FILES
        for module in imports(file)
        if module.startswith(private) and name_of(file) != "_captum"
    ]
    assert not breaches


def test_no_assert_in_the_package():
    """Gone under python -O: errors are raised."""
    breaches = [
        f"{name_of(file)}:{node.lineno}"
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Assert)
    ]
    assert not breaches


def test_all_names_are_there():
    assert all(hasattr(captum_cams, name) for name in captum_cams.__all__)
    assert captum_cams.__all__ == sorted(captum_cams.__all__)
