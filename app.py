"""Opens the app: `python app.py`, which is `python -m qvla serve`.

What it runs is set by QVLA_* variables, see qvla/settings.py.
"""

from __future__ import annotations

import sys

from qvla.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))
