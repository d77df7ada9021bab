"""`python -m cutbank.cli`: the `cutbank` command where its script is not on the path."""

import sys

from cutbank.cli import main

sys.exit(main())
