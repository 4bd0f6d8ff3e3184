"""The command line as a whole."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

from unblink import __version__
from unblink.cli import main


def test_it_names_its_version_and_its_verbs() -> None:
    assert CliRunner().invoke(main, ["--version"], prog_name="unblink").output.split()[-1] == __version__
    said = CliRunner().invoke(main, ["--help"]).output
    assert "\n  lab " in said
    assert "\n  watch " in said


@pytest.mark.parametrize("arguments", [["nonesuch"], ["lab", "nonesuch"], ["lab", "run"], ["lab", "run", "--nonesuch"]])
def test_what_it_does_not_know_is_a_usage_error(arguments: list[str]) -> None:
    done = CliRunner().invoke(main, arguments, prog_name="unblink")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "Usage: unblink" in done.stderr


def test_the_libraries_of_the_lab_are_not_loaded_for_help() -> None:
    program = (
        "import sys; from unblink.cli import main; main(['lab', '--help'], standalone_mode=False);"
        "print(sorted({'pyroute2', 'jinja2', 'jsonschema', 'trustme'} & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
