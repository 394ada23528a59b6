"""`python -m kame_jax`: the command line."""

import sys

from kame_jax.cli.main import main

sys.exit(main())
