"""`python -m controller.cli` is `whaleflux`."""

from controller.cli import main

main()
