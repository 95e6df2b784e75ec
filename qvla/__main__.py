from __future__ import annotations

import sys

from qvla.cli.main import main

sys.exit(main())
