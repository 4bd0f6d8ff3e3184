"""Makes the virtual environment that its one argument names: the locked packages, and unblink itself, editable.

Standard library only, because it runs before anything is installed. A second run finds the stamp and does nothing;
two runs at once take turns. An environment without a stamp was left unfinished, and is made anew.
"""

from __future__ import annotations  # an older Python must get as far as the message below

import fcntl
import hashlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements" / "dev.txt"  # also what two runs at once take turns on


class CannotInstall(Exception):
    """Says what is missing, and what to do about it."""


def main(venv: Path) -> int:
    try:
        if not complete(venv):
            with LOCK.open() as turn:
                fcntl.flock(turn, fcntl.LOCK_EX)
                if not complete(venv):
                    install(venv)
    except (CannotInstall, OSError) as problem:
        print(f"make venv: {problem}", file=sys.stderr)
        return 2
    return 0


def install(venv: Path) -> None:
    if sys.version_info < (3, 11):
        version = ".".join(map(str, sys.version_info[:3]))
        raise CannotInstall(
            f"unblink needs Python 3.11 or later, {sys.executable} is {version}; name another: make PYTHON=python3.12"
        )
    if not complete_once(venv):
        if importlib.util.find_spec("ensurepip") is None:
            raise CannotInstall(
                f"{sys.executable} cannot make virtual environments: it has no ensurepip "
                "(on Debian and Ubuntu: apt install python3-venv)"
            )
        run(sys.executable, "-m", "venv", "--clear", venv)
    say(f"installing the locked packages into {venv.name} (about half a minute)")
    stamp(venv).write_text("unfinished\n")
    pip = (venv / "bin" / "python", "-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, "--require-hashes", "--no-deps", "--requirement", LOCK)
    run(*pip, "--no-deps", "--no-build-isolation", "--editable", ROOT)
    stamp(venv).write_text(wanted())


def complete(venv: Path) -> bool:
    return complete_once(venv) and stamp(venv).read_text() == wanted()


def complete_once(venv: Path) -> bool:
    return stamp(venv).is_file() and (venv / "bin" / "python").exists()


def stamp(venv: Path) -> Path:
    return venv / ".complete"


def wanted() -> str:
    """What the environment depends on, as a digest: the times of files differ from clone to clone."""
    digest = hashlib.sha256()
    for path in (LOCK, ROOT / "pyproject.toml"):
        digest.update(path.read_bytes())
    digest.update(str(ROOT).encode())
    return digest.hexdigest() + "\n"


def run(*command: str | Path) -> None:
    environment = {**os.environ, "PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0"}
    try:
        subprocess.run(command, check=True, cwd=ROOT, env=environment)
    except subprocess.CalledProcessError as problem:
        raise CannotInstall(f"{' '.join(map(str, command))} ended with exit code {problem.returncode}") from None


def say(text: str) -> None:
    print(f"make venv: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).absolute()))
