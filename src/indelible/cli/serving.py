"""The commands that run a collector and say which logs it takes in: serve, producer."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from indelible.cli import output
from indelible.cli.arguments import Json, trail_of
from indelible.errors import CallerError
from indelible.trail import Trail

if TYPE_CHECKING:
    from indelible.rights import Caller
    from indelible.wire import Standing

PORT = 8443

producer = typer.Typer(
    no_args_is_help=True, help="Say which logs a collector takes in, and from whom no more."
)

_Collector = Annotated[
    str, typer.Argument(metavar="DIR", help="Directory of the collector's trail.")
]


def serve(
    *,
    directory: Annotated[
        str | None,
        typer.Argument(
            metavar="DIR",
            help="Directory of the collector's trail: its keys, and its store unless --store"
            " names another. It is made where there is none.",
        ),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            envvar="INDELIBLE_STORE",
            help="sqlite:///DIR, or postgresql://user@host/name; a password belongs into"
            " PGPASSWORD or a password file, where no list of processes shows it.",
        ),
    ] = None,
    origin: Annotated[
        str | None,
        typer.Option(
            help="Of a trail that is made: its name to the world, such as audit.example.com/all."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port to listen on.")] = PORT,
    certificate: Annotated[
        str | None, typer.Option("--tls-cert", metavar="FILE", help="Certificate chain, PEM.")
    ] = None,
    key: Annotated[
        str | None, typer.Option("--tls-key", metavar="FILE", help="Its private key, PEM.")
    ] = None,
    client_ca: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Only whoever has a certificate of these authorities is let in."
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(metavar="NUMBER", min=1, max=64, help="How many processes answer."),
    ] = 1,
    issuer: Annotated[
        str | None, typer.Option(metavar="URL", help="Issuer of the JWTs that are taken.")
    ] = None,
    audience: Annotated[
        str | None, typer.Option(metavar="NAME", help="Audience that those JWTs are for.")
    ] = None,
    key_set: Annotated[
        str | None, typer.Option("--jwks", metavar="FILE", help="Keys of that issuer, JWKS.")
    ] = None,
    requests: Annotated[
        float, typer.Option(metavar="NUMBER", min=1, help="Most requests a second and caller.")
    ] = 100.0,
    least_free: Annotated[
        int,
        typer.Option(metavar="MIB", min=0, help="Take nothing in when less room is left."),
    ] = 512,
) -> None:
    """
    Run a collector: take in the logs of producers, and answer about them.

    Without TLS it listens on loopback alone. It runs until SIGTERM or SIGINT.
    """
    from indelible.collector.serving import Serving  # noqa: PLC0415 - its own extra
    from indelible.collector.serving import serve as run  # noqa: PLC0415
    from indelible.collector.state import Settings  # noqa: PLC0415

    where, kept = _place(directory, store)
    run(
        Serving(
            directory=where,
            store=kept,
            origin=origin,
            host=host,
            port=port,
            certificate=certificate,
            key=key,
            client_ca=client_ca,
            workers=workers,
            settings=Settings(
                issuer=issuer,
                audience=audience,
                key_set=key_set,
                requests=requests,
                least_free=least_free * 1024 * 1024,
            ),
        )
    )


def _place(directory: str | None, store: str | None) -> tuple[str, str | None]:
    """Return the trail's directory, and the URL of its store where that is elsewhere."""
    if store is None or store.startswith(("postgresql://", "postgres://")):
        return str(trail_of(directory)), store
    if not store.startswith("sqlite:///"):
        raise CallerError("--store: found another URL, expected sqlite:///DIR or postgresql://…")
    path = store.removeprefix("sqlite:///")
    if directory is not None and Path(directory).absolute() != Path(path).absolute():
        raise CallerError(f"--store: found {path}, expected DIR itself: SQLite's store lies in it")
    return path, None


@producer.command("enroll")
def enroll(
    directory: _Collector,
    *,
    keys: Annotated[
        list[str] | None,
        typer.Option("--key", metavar="KEY", help="Verifier key of a log; `key` prints it."),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="DIR", help="All logs of this trail, if it is here."),
    ] = None,
    stream: Annotated[
        str | None,
        typer.Option(help="Where its entries go; by default the stream of the same name."),
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="Whose events alone it may bring.")] = None,
    json: Json = False,
) -> None:
    """Take in the logs with these keys from now on."""
    from indelible.collector.producers import enrol_all  # noqa: PLC0415 - its own extra
    from indelible.wire import Enrolment  # noqa: PLC0415

    texts = [*(keys or ()), *([] if source is None else _keys_of(source))]
    if not texts:
        raise CallerError("found neither --key nor --from")
    with Trail(trail_of(directory)) as trail:
        enrolled = enrol_all(
            trail,
            Enrolment(keys=tuple(texts), stream=stream, tenant=tenant),
            _owner(),
            time.time_ns() // 1_000,
        )
    for each in enrolled.producers:
        _show(each, json=json)


@producer.command("list")
def list_(directory: _Collector, *, json: Json = False) -> None:
    """List the logs that are taken in, and how far each has come."""
    from indelible.collector.producers import standings  # noqa: PLC0415 - its own extra

    with Trail(trail_of(directory), check=False) as trail, trail.store.read() as view:
        found = list(standings(view, _owner()))
    if json:
        for each in found:
            output.print_json(each)
    else:
        output.print_table(
            ("ORIGIN", "STREAM", "SIZE", "PROMISED", "SEEN", "ALARM"),
            [
                (
                    each.origin,
                    each.stream,
                    str(each.size),
                    str(each.promised),
                    each.seen_at or "",
                    each.alarm or ("" if each.revoked_at is None else "revoked"),
                )
                for each in found
            ],
        )


@producer.command("revoke")
def revoke(
    directory: _Collector,
    origin: Annotated[str, typer.Argument(metavar="ORIGIN", help="Origin of the log.")],
    *,
    size: Annotated[
        int | None,
        typer.Option(min=0, help="From which size on; by default, from what it has come to."),
    ] = None,
    json: Json = False,
) -> None:
    """Take nothing more from a log; what it brought stays."""
    from indelible.collector import producers  # noqa: PLC0415 - its own extra

    with Trail(trail_of(directory)) as trail:
        _show(producers.revoke(trail, origin, size, _owner()), json=json)


def _owner() -> Caller:
    """Return whoever has the trail's keys, and so is limited to nothing."""
    from indelible.rights import Caller  # noqa: PLC0415 - needed here alone

    return Caller(id="cli", name="owner", role="operator")


def _keys_of(source: str) -> list[str]:
    with Trail(Path(source), check=False) as trail:
        with trail.store.read() as view:
            streams = list(dict.fromkeys(head.stream for head in view.heads().values()))
        return [trail.verifier_key(stream).to_text() for stream in streams]


def _show(standing: Standing, *, json: bool) -> None:
    if json:
        output.print_json(standing)
    else:
        shown = msgspec.structs.asdict(standing).items()
        output.print_fields((name, str(value)) for name, value in shown if value is not None)
