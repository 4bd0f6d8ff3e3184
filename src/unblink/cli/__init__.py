"""The command line: ``unblink VERB``, one file per verb."""

import click

from unblink import __version__
from unblink.cli.lab import lab

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(context_settings=CONTEXT)
@click.version_option(__version__, prog_name="unblink")
def main() -> None:
    """Kubernetes watches that cannot hang.

    \b
    Examples:
      unblink lab run incident         reproduce the incident on this machine, and measure its cures
      unblink lab list                 what there is to run
    """


main.add_command(lab)
