"""`python -m verify ...` is `gpufleet verify ...`: gates run it, and read its run directory."""

import sys

from deploy.cli import main

if __name__ == "__main__":
    sys.exit(main(["verify", *sys.argv[1:]]))
