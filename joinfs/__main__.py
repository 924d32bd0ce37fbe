"""``python -m joinfs``."""

import sys

from joinfs.cli import main

sys.exit(main())
