"""`python -m robustlm`."""

import os
import sys

# Python puts the working folder first for `-m`: any file there would stand for a library of its name. It goes, unless
# the package itself is found nowhere else. `cli` finds modules that the user names; see `own_code`.
if __name__ == "__main__" and not sys.flags.safe_path and sys.path and sys.path[0] == os.getcwd():
    folder = sys.path.pop(0)
    if not any(finder.find_spec("robustlm", None) for finder in sys.meta_path):
        sys.path.append(folder)

from robustlm.cli import main

if __name__ == "__main__":
    main()
