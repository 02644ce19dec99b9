"""
The layout of the package: a module imports only from the levels below its own.

Captum's private names are imported in `_captum.py` alone, so that a release of Captum
breaks no more than that file.
"""

import ast
from pathlib import Path

import captum_cams

ROOT = Path(captum_cams.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# From the bottom up. Modules of one level do not import each other, but within the
# packages of `FREE_INSIDE`. A package's name stands for its modules that are not listed.
FLOORS = [
    ["_captum", "_nested", "_numerics", "_printable"],
    ["_lettering"],
    ["_validation", "module_search", "watch"],
    ["attr.registry", "blur", "quadrature"],
    [
        "path",
        "masks",
        "refine",
        "reshape",
        "model_state",
        "missing_gradients",
        "examples",
        "targets",
    ],
    ["target_output"],
    ["layer_capture"],
    ["layer_eval", "baselines"],
    ["path_eval", "layer_ablation", "metrics._metric"],
    [
        "attr._pooling",
        "attr._cam",
        "attr._mask_scores",
        "metrics._faithfulness",
        "metrics.stability",
    ],
    ["attr.integrands"],
    ["attr._path_cam"],
    # Other files hold further methods of its base class, or use their integrands.
    ["attr.gradient_cams", "attr.rsi_grad_cam", "attr.integrated_grad_cam"],
    ["attr", "metrics", "visualization"],
    ["attr.__init__", "metrics.__init__", "augmentation"],
    ["__init__"],
    ["evaluation"],
    ["_cli_parser", "_explain"],
    ["cli"],
    ["__main__"],
]
FREE_INSIDE = ("examples", "evaluation")


def name_of(file):
    """The module's name inside the package, such as `attr.rise`."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts)


def package_of(name):
    return name.split(".")[0]


def level(name):
    for wanted in (name, package_of(name)):
        for number, modules in enumerate(FLOORS):
            if wanted in modules:
                return number
    raise AssertionError(f"{name} is on no level: add it to FLOORS")


def imports(file):
    """Full names of all modules that a file imports, also inside functions."""
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
    """The module's name inside the package; a package's is that of its `__init__`."""
    path = ROOT.parent.joinpath(*module.split("."))
    name = module.removeprefix("captum_cams").lstrip(".")
    return f"{name}.__init__".lstrip(".") if path.is_dir() else name


def test_imports_point_down():
    breaches = []
    for file in FILES:
        here = name_of(file)
        for module in imports(file):
            if not module.startswith("captum_cams"):
                continue
            there = target(module)
            inside = package_of(here) == package_of(there) in FREE_INSIDE
            if level(there) >= level(here) and not inside:
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
    """Errors are raised: `python -O` takes assertions away."""
    breaches = [
        f"{name_of(file)}:{node.lineno}"
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Assert)
    ]
    assert not breaches


def test_all_public_names_exist():
    assert all(hasattr(captum_cams, name) for name in captum_cams.__all__)
    assert captum_cams.__all__ == sorted(captum_cams.__all__)
