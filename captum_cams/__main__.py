"""`python -m captum_cams` is the command `captum-cams`."""

import sys

from captum_cams.cli import main

if __name__ == "__main__":
    sys.exit(main())
