"""`python -m mgcda_dist`: the same as the command `mgcda`."""

from __future__ import annotations

from mgcda_dist.cli.main import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
