from __future__ import annotations

import sys

from qvla.cli import main

sys.exit(main())
