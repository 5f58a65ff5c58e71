"""Holds a GPU's device file open, as a training job does."""

import subprocess
import sys
import time

with open(sys.argv[1], "r+"):
    subprocess.run(["systemd-notify", "--ready"], check=True)
    while True:
        time.sleep(3600)
