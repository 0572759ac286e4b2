"""`python -m coronanet`."""

from .cli import main

main()
