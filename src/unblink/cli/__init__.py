"""The command line: ``unblink VERB``, one file per verb."""

import click

from unblink import __version__
from unblink.cli.lab import lab
from unblink.cli.watch import watch

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(context_settings=CONTEXT)
@click.version_option(__version__, prog_name="unblink")
def main() -> None:
    """Kubernetes watches that cannot hang.

    \b
    Examples:
      unblink lab run incident         reproduce the incident on this machine, and measure its cures
      unblink lab list                 what there is to run
      unblink watch pods -n default    every change, and how fresh the view is
    """


main.add_command(lab)
main.add_command(watch)
