"""Opens the app: `python app.py`. What it runs is set by QVLA_* variables, see qvla/settings.py."""

from __future__ import annotations

import sys

from qvla.errors import QvlaError
from qvla.settings import load_settings


def main() -> int:
    try:
        settings = load_settings()
        from qvla.ui.app import serve

        serve(settings)
    except QvlaError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
