"""``python -m experiments`` is ``goodteacher``."""

import sys

from experiments.cli import main

sys.exit(main())
