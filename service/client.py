"""`python -m service.client recommend --user 7`: the client's command, where the gateway is installed."""

from __future__ import annotations

import sys

from shortlist.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
