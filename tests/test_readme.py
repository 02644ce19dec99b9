"""What the README shows runs."""

import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def test_the_example_runs():
    for code in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL):
        names = {}
        exec(code, names)
        assert names["full_size"].shape == (4, 1, 128, 128)


def test_every_name_is_listed():
    import captum_cams

    text = README.read_text()
    assert all(f"`{name}`" in text for name in captum_cams.__all__)
