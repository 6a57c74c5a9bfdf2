"""`python -m rsgen_cli`, and `torchrun -m rsgen_cli train ...`."""

from . import main

main()
