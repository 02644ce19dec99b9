"""What the README shows runs."""

import re
from pathlib import Path

# Tuples that functions return.
RESULTS = {"BoxOverlap", "PointingAccuracy"}
README = Path(__file__).parent.parent / "README.md"


def test_the_example_runs():
    names = {}
    for code in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL):
        exec(code, names)
    assert names["full_size"].shape == (4, 1, 128, 128)


def test_every_name_is_listed():
    import captum_cams

    text = README.read_text()
    names = {*captum_cams.__all__, *captum_cams.metrics.__all__} - RESULTS
    assert not [name for name in names if not re.search(rf"[`.]{name}\b", text)]
