"""`python -m brittle_eval` is the command `brittle-eval`."""

import sys

from brittle_eval.cli import main

sys.exit(main())
