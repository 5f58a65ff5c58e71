"""`python -m tests.golden [--update]`: see the package."""

import sys

from tests.golden.compare import differences, drawn, write

if __name__ == "__main__":
    files = drawn()
    if "--update" in sys.argv[1:]:
        print("\n".join(write(files)) or "nothing changed")
    else:
        found = differences(files)
        print("\n".join(found) or "as drawn")
        sys.exit(bool(found))
