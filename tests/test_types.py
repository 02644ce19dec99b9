"""A user's type checker knows the results of every call."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

SCRIPT = """
from torch import Tensor, nn

import captum_cams
from captum_cams import (
    GroupCam,
    LayerAblationCam,
    LayerCam,
    LayerIntegratedGradCam,
    LayerPathIntegrals,
    LayerRSIGradCam,
    LayerSmoothGradCamPlusPlus,
    Rise,
    ScoreCam,
    Xrai,
    metrics,
)

def explain(
    model: nn.Module,
    layer: nn.Module,
    layers: list[nn.Module],
    image: Tensor,
    images: tuple[Tensor, ...],
) -> None:
    one, several = LayerRSIGradCam(model, layer), LayerRSIGradCam(model, layers)
    integrals = LayerPathIntegrals(model, layers)
    igc = LayerIntegratedGradCam(model, layer)
    print(
        captum_cams.augmentation.GroupCamBlend,
        captum_cams.evaluation.evaluate,
        captum_cams.visualization.panel,
    )
"""

# As Captum declares them for classes that take one layer or a list of them.
LAYER = "Tensor | tuple[Tensor, ...]"
MAPS = f"{LAYER} | list[{LAYER}]"
DELTA = "Tensor | list[Tensor]"
ALPHAS = "list[Tensor]"
# A method of the path is asked for the maps alone, and for what it returns beside them.
EXTRAS = {
    "": MAPS,
    ", return_convergence_delta=True": f"tuple[{MAPS}, {DELTA}]",
    ", return_alphas=True": f"tuple[{MAPS}, {ALPHAS}]",
    ", return_convergence_delta=True, return_alphas=True": f"tuple[{MAPS}, {DELTA}, {ALPHAS}]",
}
TYPES = {
    **{
        f"{cam}.{method}({inputs}{extra})": result
        for cam in ("one", "several")
        for method in ("attribute", "conductance")
        for inputs in ("image", "images")
        for extra, result in EXTRAS.items()
    },
    "igc.attribute(image)": MAPS,
    "igc.attribute(images, return_alphas=True)": f"tuple[{MAPS}, {ALPHAS}]",
    "LayerIntegratedGradCam(model, layers).attribute(image)": MAPS,
    "LayerAblationCam(model, layer).attribute(image)": "Tensor",
    "LayerSmoothGradCamPlusPlus(model, layer).attribute(image)": MAPS,
    "LayerCam(model, layer).attribute(image)": MAPS,
    "LayerCam(model, layers).attribute(images)": MAPS,
    "GroupCam(model, layer).attribute(image)": "Tensor",
    "GroupCam(model, layer).attribute(images)": "tuple[Tensor, ...]",
    "ScoreCam(model, layer).attribute(image)": "Tensor",
    "ScoreCam(model, layer).attribute(images)": "tuple[Tensor, ...]",
    "Rise(model).attribute(image)": "Tensor",
    "Rise(model).attribute(images)": "tuple[Tensor, ...]",
    "Xrai(model).attribute(image)": "Tensor",
    "Xrai(model).attribute(images)": "tuple[Tensor, ...]",
    "integrals.attribute(image)": f"list[{MAPS}]",
    "integrals.attribute(image, return_alphas=True)": f"tuple[list[{MAPS}], {ALPHAS}]",
    "metrics.average_drop(model, image, image)": "Tensor",
    "captum_cams.baselines.blurred(image)": "Tensor",
    "captum_cams.examples.shape_pictures(2).images": "Tensor",
    "captum_cams.path.straight_line(image, image, image)": "Tensor",
    "captum_cams.reshape.vit_tokens(image)": "Tensor",
}


@pytest.mark.slow
def test_a_strict_script_of_a_user(tmp_path):
    calls = [f"    reveal_type({call})" for call in TYPES]
    (tmp_path / "script.py").write_text("\n".join([*SCRIPT.splitlines(), *calls, ""]))
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file="]
    # Errors inside the package are not shown, as where it is installed.
    options = ["--follow-imports=silent", f"--cache-dir={tmp_path / 'cache'}"]
    result = subprocess.run(
        [*command, *options, "script.py"],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert "error:" not in result.stdout, result.stdout
    assert result.returncode == 0, result.stderr
    found = re.findall(r'Revealed type is "(.*)"', result.stdout)
    found = [re.sub(r"\b(builtins|torch\._tensor)\.", "", type_) for type_ in found]
    assert dict(zip(TYPES, found, strict=True)) == TYPES
