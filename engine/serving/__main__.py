"""`python -m engine.serving`: run a worker."""

import sys

from engine.serving import main

if __name__ == "__main__":
    sys.exit(main())
