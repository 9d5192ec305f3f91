"""``python -m goodteacher`` is ``goodteacher``."""

import sys

from goodteacher.experiments.commands.main import main

sys.exit(main())
