"""Something to run with nothing downloaded: pictures and a network for them."""

from captum_cams.examples.model import ShapesNet, shapes_model
from captum_cams.examples.shapes import (
    CLASSES,
    ShapePictures,
    shape_masks,
    shape_pictures,
)

__all__ = [
    "CLASSES",
    "ShapePictures",
    "ShapesNet",
    "shape_masks",
    "shape_pictures",
    "shapes_model",
]
