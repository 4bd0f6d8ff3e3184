"""``python -m unblink``."""

from unblink.cli import main

main(prog_name="unblink")
