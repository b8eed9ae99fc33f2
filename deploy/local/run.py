"""`python -m deploy.local.run ROLE ARGUMENT ...`: a command of a role, told where this machine's servers are.

So are the commands of the Makefile. What it adds to the environment is `LocalSettings.environment`, the
password of the local Redis included; the process becomes the role's Python.
"""

from __future__ import annotations

import os
import sys

from deploy.local.settings import load_settings, python_of


def main() -> None:
    """Becomes the command."""
    settings, (role, *arguments) = load_settings(), sys.argv[1:]
    python = str(python_of(role))
    os.execve(python, [python, *arguments], os.environ | settings.environment())


if __name__ == "__main__":
    main()
