"""``unblink watch``: what ``kubectl get -w`` does, with a stated bound on staleness that is always in sight."""

import asyncio
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from unblink.cli.output import Screen
    from unblink.cli.rows import Write
    from unblink.client.discovery import Resource
    from unblink.client.objects import Object
    from unblink.client.view import View

CANNOT_WATCH = 2
INTERRUPTED = 130
NOBODY_READS = 141
"""What a shell shows for a program that SIGPIPE ended."""
REFRESH_S = 0.2
"""How often the live line is brought up to date."""
MAX_BATCH = 1000
"""Events that are written together at most."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line asks for; ``namespace`` of None is the context's own."""

    resource: str
    namespace: str | None
    all_namespaces: bool
    label_selector: str | None
    field_selector: str | None
    output: str
    watch_only: bool
    max_staleness_s: float
    timeout_s: float | None
    kubeconfig: Path | None
    context: str | None
    insecure: bool


@click.command()
@click.argument("resource")
@click.option("-n", "--namespace", metavar="NAME", help="The namespace; by default that of the kubeconfig's context.")
@click.option("-A", "--all-namespaces", is_flag=True, help="All namespaces.")
@click.option(
    "-l", "--selector", "label_selector", metavar="QUERY", help="Label selector, such as app=web,tier!=cache."
)
@click.option("--field-selector", metavar="QUERY", help="Field selector, such as metadata.name=web-0.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "name", "json", "yaml"]),
    default="table",
    show_default=True,
    help='json is one {"type": ..., "object": ...} a line.',
)
@click.option("--watch-only", is_flag=True, help="Changes alone, without what is there at the start.")
@click.option(
    "--max-staleness",
    "max_staleness_s",
    type=float,
    default=180.0,
    show_default=True,
    metavar="SECONDS",
    help="The bound: a watch that does not prove within it that it keeps up is replaced.",
)
@click.option("--timeout", "timeout_s", type=float, metavar="SECONDS", help="End after so long, with exit code 0.")
@click.option(
    "--kubeconfig",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Otherwise $KUBECONFIG, ~/.kube/config, or a pod's service account.",
)
@click.option("--context", metavar="NAME", help="The kubeconfig's context to use.")
@click.option("--insecure-skip-tls-verify", "insecure", is_flag=True, help="Accept any certificate of the server.")
def watch(**options: object) -> None:
    """Watch RESOURCE: every object there is, then every change, at most --max-staleness seconds late.

    RESOURCE is spelled as for kubectl: pods, pod, po, deployments.apps, deployments.v1.apps.

    A line on standard error says how fresh the view is, and why; where that is no terminal, each change between
    fresh and STALE is said.

    \b
    Exit code:
      0    --timeout is over
      2    it cannot be watched: no such resource, not allowed, no server
      130  interrupted

    \b
    Examples:
      unblink watch pods -n default
      unblink watch deploy -A -l app=web
      unblink watch pods -o json | jq -r '[.type, .object.metadata.name] | @tsv'
      unblink watch pod --field-selector metadata.name=web-0 --max-staleness 10
    """
    request = Request(**options)  # type: ignore[arg-type]  # click gives what the options above say
    if request.namespace is not None and request.all_namespaces:
        raise click.UsageError("--namespace and --all-namespaces exclude each other.")
    from unblink.client.discovery import DiscoveryFailed, UnknownResource  # noqa: PLC0415  # --help does without
    from unblink.client.kubeconfig import KubeconfigError  # noqa: PLC0415
    from unblink.client.view import WatchRefused  # noqa: PLC0415

    try:
        asyncio.run(_run(request))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(NOBODY_READS)
    except OSError as error:
        _refuse(f"standard output: {error.strerror or error}")
    except (DiscoveryFailed, UnknownResource, KubeconfigError, WatchRefused, ValueError) as error:
        _refuse(_explained(error))


def _explained(error: Exception) -> str:
    code = getattr(error, "code", None)
    hint = {
        401: "\nthe server does not know who we are: check the kubeconfig's user",
        403: "\nthe server knows who we are and does not allow it: it takes the verbs list and watch",
    }.get(code or 0, "")
    return f"{error}{hint}"


def _refuse(why: str) -> NoReturn:
    for line in why.splitlines():
        click.echo(f"unblink: {line}", err=True)
    sys.exit(CANNOT_WATCH)


async def _run(request: Request) -> None:
    from unblink.cli.output import Screen  # noqa: PLC0415  # --help does without
    from unblink.client import cluster, discovery  # noqa: PLC0415

    joined = cluster.join(request.kubeconfig, request.context, insecure=request.insecure)
    try:
        resource = discovery.resolve(await discovery.discover(joined.pool), request.resource)
        screen = Screen()
        try:
            async with asyncio.timeout(request.timeout_s):
                await _follow(request, resource, joined.access.namespace, screen)
        except TimeoutError:
            return
        finally:
            screen.clear()
    finally:
        await cluster.leave(joined)


async def _follow(request: Request, resource: "Resource", own_namespace: str, screen: "Screen") -> None:
    """Watch until cancelled."""
    from unblink.client.view import View  # noqa: PLC0415  # --help does without
    from unblink.client.watching import Event, EventType  # noqa: PLC0415

    events: list[Event] = []

    def put(_key: str, old: "Object | None", new: "Object | None") -> None:
        if request.watch_only and not view.synced:
            return
        again = old is not None and new is not None and old.metadata.uid != new.metadata.uid
        if old is not None and (new is None or again):
            events.append(Event(EventType.DELETED, old))
        if new is not None:
            events.append(Event(EventType.ADDED if old is None or again else EventType.MODIFIED, new))

    everywhere = request.all_namespaces or not resource.namespaced
    view = View(
        resource.api_version,
        resource.plural,
        put,
        namespace=None if everywhere else request.namespace or own_namespace,
        label_selector=request.label_selector,
        field_selector=request.field_selector,
        max_staleness=request.max_staleness_s,
        kubeconfig=request.kubeconfig,
        context=request.context,
        insecure_skip_tls_verify=request.insecure,
    )
    write = _form(request.output, resource, with_namespace=everywhere and resource.namespaced)
    showing = asyncio.create_task(_show(view, screen))
    try:
        async with view:
            while True:
                while events:
                    batch = events[:MAX_BATCH]
                    del events[:MAX_BATCH]
                    await screen.write(write(batch))
                await view.changed()
    finally:
        showing.cancel()
        await asyncio.gather(showing, return_exceptions=True)


def _form(output: str, resource: "Resource", *, with_namespace: bool) -> "Write":
    from unblink.cli import rows  # noqa: PLC0415  # --help does without

    forms: dict[str, Callable[[], Write]] = {
        "table": lambda: rows.Table(resource, with_namespace=with_namespace),
        "name": lambda: rows.names(resource),
        "json": lambda: rows.json_lines(resource),
        "yaml": lambda: rows.yaml_documents(resource),
    }
    return forms[output]()


async def _show(view: "View", screen: "Screen") -> None:
    """Keep the live line up to date until cancelled."""
    from unblink.cli.freshness import line  # noqa: PLC0415  # --help does without

    while True:
        await asyncio.sleep(REFRESH_S)
        screen.show(line(view.health()))
