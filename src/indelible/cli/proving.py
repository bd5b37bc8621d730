"""Commands for whoever does not trust us: verify, prove and what they read, key, export."""

from __future__ import annotations

from base64 import b64encode
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

import typer

from indelible import query
from indelible.checkpoint import Checkpoint
from indelible.cli import output
from indelible.cli.arguments import Directory, Id, Json, Place, Stream, trail_of
from indelible.cli.opening import Source, fetches, place_and, place_of, proof_of, reads
from indelible.cli.reading import find
from indelible.entry import Entry, time_to_text
from indelible.errors import CallerError, KeyUnavailable, Malformed, NotFound
from indelible.note import Note, VerifierKey
from indelible.plan import text_of
from indelible.proof import Proof
from indelible.trail import Trail
from indelible.trail import open as open_trail

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from indelible.cli.output import Advance
    from indelible.client import Client
    from indelible.evidence import EvidenceVerdict
    from indelible.query import Item
    from indelible.store import View
    from indelible.verdict import Verdict

_MAX_FILE = 2**21
"""Larger than any entry, proof or note."""


@fetches
def verify(
    *,
    place: Annotated[
        str | None,
        typer.Argument(
            metavar="DIR|URL",
            help="Directory of the trail, or of an exported log (tlog-tiles); or URL of a"
            " collector.",
        ),
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VKEY",
            help="Verifier key to trust instead of the pinned one; one for each log.",
        ),
    ] = None,
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Older checkpoint that must hold, too."),
    ] = None,
    jobs: Annotated[int, typer.Option(metavar="N", min=1, help="Processes that verify.")] = 1,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also compare the indexes with the entries.")
    ] = False,
    log_only: Annotated[
        bool, typer.Option("--log-only", help="Leave out what became of the values in the vault.")
    ] = False,
    source: Source,
    json: Json = False,
) -> None:
    """
    Verify a trail, an exported log or a collector's logs; print the verdict.

    Every byte, link, tree and signature is checked, and of a trail that each value
    it commits to is there or was rightly removed. The verdict is witnessed,
    anchored or signed, which pass; or unauthenticated, where neither a pinned nor a
    given key says who may sign; or tampered. The exit code is 0 only if it passes
    and nothing was found.

    Of a collector every log whose key is trusted is fetched whole.
    """
    where = place_of(place)
    keys = [_key(text) for text in key or ()]
    notes = {name: _read(Path(name)) for name in checkpoint or ()}
    started = monotonic()
    with output.progress("verify", json=json) as advance:
        if isinstance(where, str):
            if deep:
                raise CallerError("--deep: a collector's indexes are where its directory is")
            source = replace(source, trust=[*(source.trust or ()), *(key or ())])
            with source.client(where) as client:
                verdict = client.verify(checkpoints=notes.values(), progress=advance)
        else:
            source.check_local()
            if not (where / "trail.json").exists() and (where / "checkpoint").exists():
                verdict = _verify_export(where, keys, notes)
            else:
                verdict = _verify_trail(
                    where, keys, notes, jobs=jobs, deep=deep, values=not log_only, advance=advance
                )
    seconds = monotonic() - started
    if json:
        output.print_json(_verdict_json(verdict, seconds))
    else:
        output.print_fields(_verdict_fields(verdict, seconds))
    if not verdict.passed:
        raise typer.Exit(1)


def _verify_trail(
    path: Path,
    keys: Sequence[VerifierKey],
    notes: dict[str, bytes],
    *,
    jobs: int,
    deep: bool,
    values: bool,
    advance: Advance | None,
) -> Verdict:
    with open_trail(path, mode="r") as trail:
        return trail.verify(
            keys=keys,
            checkpoints=notes.values(),
            jobs=jobs,
            deep=deep,
            values=values,
            progress=advance,
        )


def _verify_export(path: Path, keys: Sequence[VerifierKey], notes: dict[str, bytes]) -> Verdict:
    from indelible.directory import verify_directory  # noqa: PLC0415 - only for exports
    from indelible.mark import Known  # noqa: PLC0415
    from indelible.verify import Seen  # noqa: PLC0415

    if len(keys) > 1:
        raise CallerError(f"--key: found {len(keys)}, expected one: the directory holds one log")
    if notes and not keys:
        raise CallerError("--checkpoint: found no --key that could have signed it")
    seen = []
    for name, note in notes.items():
        opened = Checkpoint.open(note, keys)
        seen.append(Seen(log=opened.origin, where=name, tree=Known(opened.size, opened.root)))
    return verify_directory(path, keys[0] if keys else None, seen)


def _verdict_json(verdict: Verdict, seconds: float) -> dict[str, Any]:
    return {
        "level": verdict.level.value,
        "passed": verdict.passed,
        "entries": verdict.entries,
        "bytes": verdict.bytes,
        "seconds": round(seconds, 3),
        "logs": [
            {
                "log": log.log,
                "origin": log.origin,
                "level": log.level.value,
                "size": log.size,
                "root": None if log.root is None else b64encode(log.root).decode("ascii"),
                "recorded_at": None if log.recorded_at is None else time_to_text(log.recorded_at),
                "key": None if log.key is None else log.key.to_text(),
                "anchored": log.anchored,
            }
            for log in verdict.logs
        ],
        "reaches": verdict.reaches,
        "does_not_show": verdict.does_not_show,
        "losses": verdict.losses,
        "values": verdict.values,
        "findings": [
            {"log": finding.log, "where": finding.where, "what": finding.what}
            for finding in verdict.findings
        ],
    }


def _verdict_fields(verdict: Verdict, seconds: float) -> list[tuple[str, str]]:
    rate = f", {verdict.entries / seconds:,.0f}/s" if seconds > 0 else ""
    return [
        ("verdict", verdict.level.value if verdict.passed else f"{verdict.level.value}: NO PASS"),
        *(("finding", str(finding)) for finding in verdict.findings),
        *(("lost", text) for text in verdict.losses),
        ("verified", f"{verdict.entries:,} entries, {verdict.bytes:,} bytes{rate}"),
        *(
            [("values", ", ".join(f"{count:,} {state}" for state, count in verdict.values.items()))]
            if verdict.values
            else []
        ),
        *(("reaches to", text) for text in verdict.reaches),
        *(("does not show", text) for text in verdict.does_not_show),
    ]


@reads
def prove(
    *,
    out: Annotated[
        str,
        typer.Option(
            metavar="OUT",
            help="Writes OUT.entry and OUT.tlog-proof; with --disclose, the folder OUT.",
        ),
    ],
    place: Place = None,
    event_id: Id = None,
    disclose: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH",
            help="Open this value, such as /client/ip, for whoever gets the evidence; or all"
            " that the role sees. May be given several times.",
        ),
    ] = None,
    source: Source,
    json: Json = False,
) -> None:
    """
    Write an entry and the proof that it is in the log.

    With the verifier key, which must come to the verifier on another way, these two
    files are all that verify-proof needs. Files that are there are not overwritten.

    With --disclose, write a folder of evidence: also the values at these paths, and
    what became of the others, with proof where they were erased. verify-evidence
    reads it. That values were opened is recorded.
    """
    where, wanted = place_and(place, event_id, "ID")
    if disclose:
        _disclose(trail_of(str(where)), wanted, Path(out), disclose, source=source, json=json)
        return
    targets = Path(f"{out}.entry"), Path(f"{out}.tlog-proof")
    for target in targets:
        if target.exists():
            raise CallerError(f"{target}: exists, and evidence is not overwritten")
    with source.opened(where) as trail:
        item = find(trail, wanted)
        verifier = _verifier_of(trail, item)
        proof = proof_of(trail, item)
    entry, key_text = item.entry.to_bytes(), verifier.to_text()
    # Evidence that would not hold is noticed here and not by whoever gets it.
    proof.verify(entry, [verifier], index=item.index)
    for target, data in zip(targets, (entry, proof.to_bytes()), strict=True):
        try:
            with target.open("xb") as file:
                file.write(data)
        except OSError as error:
            raise CallerError(f"{target}: {error.strerror}") from None
    if json:
        output.print_json(
            {
                "entry": str(targets[0]),
                "proof": str(targets[1]),
                "log": item.log,
                "index": item.index,
                "key": key_text,
            }
        )
        return
    command = f"indelible verify-proof --entry {targets[0]} --proof {targets[1]} --key '{key_text}'"
    output.print_fields(
        [
            ("entry", str(targets[0])),
            ("proof", str(targets[1])),
            ("key", key_text),
            ("verify with", command),
        ]
    )


def _verifier_of(trail: Trail | Client, item: Item) -> VerifierKey:
    if not isinstance(trail, Trail):
        return trail.verifier_key(item.log)
    verifier = trail.verifier_key(item.stream)
    # Where the log has a successor, the stream's key is that one's.
    return verifier if verifier.name == item.origin else trail.signer(item.log).verifier


def _disclose(
    path: Path, wanted: str, target: Path, disclose: Sequence[str], *, source: Source, json: bool
) -> None:
    paths = None if _ALL in disclose else disclose
    with source.opened(path) as trail:
        assert isinstance(trail, Trail)  # noqa: S101 - it was opened from a directory
        with trail.store.read() as view:
            event_id = wanted if "#" not in wanted else _id_at(view, wanted)
        verdict = trail.disclose(event_id, target, paths=paths)
        logs = {verdict.log, *(each.entry.partition("#")[0] for each in verdict.removals)}
        keys = [text for log in sorted(logs) for text in _verifier_texts(trail, log)]
    if json:
        output.print_json({"folder": str(target), "keys": keys, **_evidence_json(verdict)})
        return
    command = " ".join([f"indelible verify-evidence {target}", *(f"--key '{k}'" for k in keys)])
    output.print_fields(
        [
            ("folder", str(target)),
            *_evidence_fields(verdict),
            *(("key", text) for text in keys),
            ("verify with", command),
        ]
    )


_ALL = "all"


def _verifier_texts(trail: Trail, log: str) -> Iterator[str]:
    # A copy of a trail without its keys, on a machine without its pins, has none to tell.
    with suppress(KeyUnavailable):
        verifier = trail.verifier_key(log.partition("~")[0])
        if not verifier.name.endswith(f"/{log}"):
            verifier = trail.signer(log).verifier
        yield verifier.to_text()


def verify_evidence(
    *,
    folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="Folder that prove --disclose has written.")
    ],
    key: Annotated[
        list[str],
        typer.Option(
            metavar="VKEY",
            help="Verifier key, from somebody you trust: of the log, and of the custody log.",
        ),
    ],
    json: Json = False,
) -> None:
    """
    Verify evidence of an entry and of its values; no trail is needed.

    Prints what is proven of each value: what it is, or which erasure or purge it is
    gone by and who approved that. What is only said, and not proven, is told apart.
    The exit code is 1 if the evidence does not hold, or a removal is not proven.
    """
    from indelible import evidence  # noqa: PLC0415 - only for this command

    verdict = evidence.verify(Path(folder), [_key(text) for text in key])
    if json:
        output.print_json(_evidence_json(verdict))
    else:
        output.print_fields(
            [
                ("proven", f"{verdict.checkpoint.origin} holds entry {verdict.entry.index}"),
                ("checkpoint", f"size {verdict.checkpoint.size}"),
                ("signed by", verdict.key.to_text()),
                *output.entry_fields(verdict.entry),
                *_evidence_fields(verdict),
            ]
        )
    if any(each.state == evidence.UNPROVEN for each in verdict.values):
        raise typer.Exit(1)


def _evidence_json(verdict: EvidenceVerdict) -> dict[str, Any]:
    checkpoint = verdict.checkpoint
    return {
        "origin": checkpoint.origin,
        "index": verdict.entry.index,
        "size": checkpoint.size,
        "root": b64encode(checkpoint.root).decode("ascii"),
        "key": verdict.key.to_text(),
        "leaf_hash": verdict.entry.leaf_hash.hex(),
        "recorded_at": time_to_text(verdict.entry.recorded_at),
        "event": output.raw_json(verdict.entry.event),
        "values": [
            {
                "path": each.path,
                "state": each.state,
                "proven": each.proven,
                **({"value": each.value} if each.proven and not each.why else {"why": each.why}),
            }
            for each in verdict.values
        ],
        "removals": [
            {
                "entry": each.entry,
                "state": each.state.value,
                "began_at": text_of(each.began_at),
                "basis": each.basis,
                "requester": each.requester,
                "policy": each.policy,
                "approved_by": each.approved_by,
                "self_approved": each.self_approved,
            }
            for each in verdict.removals
        ],
        "does_not_show": verdict.does_not_show,
    }


def _evidence_fields(verdict: EvidenceVerdict) -> Iterator[tuple[str, str]]:
    from indelible.evidence import UNPROVEN  # noqa: PLC0415 - only for evidence

    for each in verdict.values:
        if each.proven and not each.why:
            yield each.path, output.value_text(each.value)
        else:
            said = (
                each.state if each.proven or each.state == UNPROVEN else f"{each.state}, not proven"
            )
            yield each.path, f"{said}: {each.why}"
    for removal in verdict.removals:
        who = ", ".join(removal.approved_by) or "nobody, as the policy allows"
        alone = " (self-approved)" if removal.self_approved else ""
        text = f"{removal.state}; basis {removal.basis}; approved by {who}{alone}"
        yield removal.entry, f"{text}; under policy {removal.policy}"
    for text in verdict.does_not_show:
        yield "does not show", text


def _id_at(view: View, wanted: str) -> str:
    log, _, number = wanted.rpartition("#")
    head = view.heads().get(log)
    if head is None or not (number.isascii() and number.isdigit() and int(number) < head.size):
        raise NotFound(f"entry: no entry {wanted!r}")
    (item,) = query.items(view, log, [int(number)])
    return item.event.id


def verify_proof(
    *,
    entry: Annotated[str, typer.Option(metavar="FILE", help="The entry's exact bytes.")],
    proof: Annotated[str, typer.Option(metavar="FILE", help="The proof, a C2SP tlog-proof.")],
    key: Annotated[
        str, typer.Option(metavar="VKEY", help="The log's verifier key, from somebody you trust.")
    ],
    json: Json = False,
) -> None:
    """
    Verify that a log holds an entry; no trail is needed.

    Prints where the entry stands, under which checkpoint, and what it says. The
    exit code is 1 if the proof does not hold.
    """
    verifier = _key(key)
    data = _read(Path(entry))
    opened = Proof.from_bytes(_read(Path(proof)))
    checkpoint = opened.verify(data, [verifier])
    found = Entry.from_bytes(data)
    if found.index != opened.index:
        raise Malformed(f"entry: says index {found.index}, but is proven at {opened.index}")
    shown = {
        "origin": checkpoint.origin,
        "index": opened.index,
        "size": checkpoint.size,
        "root": b64encode(checkpoint.root).decode("ascii"),
        "key": verifier.to_text(),
        "leaf_hash": found.leaf_hash.hex(),
        "recorded_at": time_to_text(found.recorded_at),
    }
    if json:
        output.print_json({**shown, "event": output.raw_json(found.event)})
        return
    output.print_fields(
        [
            ("proven", f"{checkpoint.origin} holds this entry at index {opened.index}"),
            ("checkpoint", f"size {checkpoint.size}, root {shown['root']}"),
            ("signed by", verifier.to_text()),
            *output.entry_fields(found),
        ]
    )


@fetches
def checkpoint(
    *, place: Place = None, stream: Stream = "user", source: Source, json: Json = False
) -> None:
    """
    Print the signed checkpoint of a stream's log, verbatim.

    Kept where the trail's owner cannot rewrite it, it makes every later change to
    what it covers show: give it to verify with --checkpoint.
    """
    with source.opened(place_of(place)) as trail:
        note = trail.checkpoint(stream)
    if not json:
        output.print_exact(note)
        return
    read = Checkpoint.from_text(Note.from_bytes(note).text)
    output.print_json(
        {
            "stream": stream,
            "origin": read.origin,
            "size": read.size,
            "root": b64encode(read.root).decode("ascii"),
            "note": note.decode("utf-8"),
        }
    )


@fetches
def key(
    *, place: Place = None, stream: Stream = "user", source: Source, json: Json = False
) -> None:
    """
    Print the verifier key of a stream's log.

    Of a collector, the one that the trusted key has handed over to: never one that came
    with an answer alone.
    """
    with source.opened(place_of(place)) as trail:
        text = trail.verifier_key(stream).to_text()
    if json:
        output.print_json({"stream": stream, "key": text})
    else:
        output.print_text(text)


def export(
    *,
    tiles: Annotated[
        str, typer.Option(metavar="OUT", help="Directory to write, as C2SP tlog-tiles.")
    ],
    directory: Directory = None,
    stream: Stream = "user",
    json: Json = False,
) -> None:
    """
    Write a stream's log as files that others can verify.

    The format is C2SP tlog-tiles; verify reads it, too.
    """
    with open_trail(trail_of(directory), mode="r") as trail:
        trail.export(stream, Path(tiles))
    if json:
        output.print_json({"stream": stream, "tiles": tiles})
    else:
        output.print_fields([("stream", stream), ("tiles", tiles)])


def _key(text: str) -> VerifierKey:
    try:
        return VerifierKey.from_text(text)
    except Malformed as error:
        raise CallerError(f"--key: {error}") from None


def _read(path: Path) -> bytes:
    """
    Read a file that the caller names.

    Raises:
        CallerError: It cannot be read, or is larger than what is asked for can be.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise CallerError(f"{path}: {error.strerror}") from None
    if len(data) > _MAX_FILE:
        raise CallerError(f"{path}: found more than {_MAX_FILE} bytes")
    return data
