"""
Profiles of hypothesis: `dev`, `ci` (always the same examples) and `long`.

HYPOTHESIS_PROFILE chooses; without it, `ci` where the variable CI is set, else `dev`.
"""

import os

from hypothesis import settings

settings.register_profile("dev", deadline=None, max_examples=10)
settings.register_profile("ci", deadline=None, max_examples=20, derandomize=True)
settings.register_profile("long", deadline=None, max_examples=200)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE", "ci" if "CI" in os.environ else "dev")
)
