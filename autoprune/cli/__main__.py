"""``python -m autoprune.cli``: the same as the console script."""

from autoprune.cli.main import main

main()
