"""`python -m cutbank_scorer`: the scorer as a process of its own. Reads the environment and passes it on."""

import os
import sys

from cutbank.runtime.service import service_main
from cutbank_scorer.app import SERVICE

if __name__ == "__main__":
    sys.exit(service_main(SERVICE, sys.argv[1:], os.environ))
