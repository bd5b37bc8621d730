"""
Sealing: CPU from an event to its sealed bytes and boxes, against stdlib logging with JSON.

The event has six committed fields in three classes, see `benchmarks.profiles`. The two
take turns in short rows; so the caches are as warm for one as for the other. Data keys
are there already, since each is made once for many events of its subject: what making
one takes stands apart. Sizes are those of the same event sealed and in clear.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

from benchmarks import logging_baseline, policies, profiles
from benchmarks.figures import Figure, Result, Task, result
from benchmarks.stopwatch import Stopwatch, percentile
from benchmarks.trails import LOG, made
from indelible.box import Row
from indelible.seal import seal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from indelible.event import Event
    from indelible.policy import Policy
    from indelible.seal import Sealed
    from indelible.vault import Vault

_ROW = 256
_RESOURCES = ("profile", "order", "customer")


def run(task: Task) -> Result:
    """Measure it."""
    policy = policies.profiles()
    figures: list[Figure] = []
    with made(task.scratch / "home", policy=policy) as trail:
        for resource in _RESOURCES:
            waiting = list(profiles.events(task.entries, resource=resource))
            figures += _key(trail.vault, policy, waiting)
            figures += _measured(trail.vault, policy, waiting, resource)
    return result("sealing", task.entries, *figures)


class Sealing:
    """The steps from an event to what is handed to the writer, as the recorder takes them."""

    def __init__(self, vault: Vault, policy: Policy) -> None:
        self._vault, self._policy = vault, policy

    def seal(self, event: Event) -> Sealed:
        """Classify, commit and encode."""
        ruling = self._policy.rule_on(event)
        return seal(event, ruling, self._policy, fingerprint=self._vault.fingerprint)

    def enclose(self, sealed: Sealed) -> Sealed:
        """Put the values into boxes."""
        return self._vault.enclose(sealed, LOG)

    def __call__(self, event: Event) -> Sealed:
        """Do both."""
        return self.enclose(self.seal(event))


def _key(vault: Vault, policy: Policy, waiting: Sequence[Event]) -> Iterator[Figure]:
    """Make all data keys that *waiting* need; yield what one takes."""
    sealing, watch, keys = Sealing(vault, policy), Stopwatch(), set[bytes]()
    sealed = [sealing.seal(event) for event in waiting]
    with watch.running():
        for each in sealed:
            keys.update(sealing.enclose(each).keys)
        vault.keyring.keep(keys)
    again = Stopwatch()
    with again.running():
        for each in sealed:
            sealing.enclose(each)
    if waiting[0].resource.type == _RESOURCES[0]:
        yield Figure(
            key="sealing.key",
            value=(watch.thread - again.thread) / len(keys) * 1e6,
            unit="µs CPU",
            note=f"to make a data key and to keep it, once for {len(waiting) / len(keys):.2g}"
            " events here",
        )


def _measured(
    vault: Vault, policy: Policy, waiting: Sequence[Event], resource: str
) -> Iterator[Figure]:
    sealing, info = Sealing(vault, policy), logging_baseline.logger().info
    fields = {event.id: logging_baseline.fields(event) for event in waiting}
    halves = [sealing.seal(event) for event in waiting]
    watches = _in_turns(
        {
            "logging": lambda at: info(waiting[at].action, extra={"event": fields[waiting[at].id]}),
            "seal": lambda at: sealing.seal(waiting[at]),
            "enclose": lambda at: sealing.enclose(halves[at]),
            "both": lambda at: sealing(waiting[at]),
        },
        len(waiting),
    )
    row = Row.from_bytes(sealing(waiting[0]).row)
    note = f"{len(halves[0].values)} fields, {len(row.boxes)} boxes"
    first = resource == _RESOURCES[0]
    name = "" if first else f".{len(row.boxes)}"
    cpu = {step: percentile(times, 50) * 1e6 for step, times in watches.items()}
    yield Figure(key=f"sealing.cpu{name}", value=cpu["both"], unit="µs", note=note)
    yield Figure(key=f"sealing.seal{name}", value=cpu["seal"], unit="µs CPU")
    yield Figure(key=f"sealing.enclose{name}", value=cpu["enclose"], unit="µs CPU")
    yield Figure(key=f"sealing.logging{name}", value=cpu["logging"], unit="µs CPU")
    yield Figure(key=f"sealing.ratio{name}", value=cpu["both"] / cpu["logging"], unit="×")
    yield from _sizes(waiting, halves, name)


def _in_turns(steps: dict[str, Callable[[int], object]], count: int) -> dict[str, list[float]]:
    """Take each of *steps* on one row of events after the other; return seconds for one event."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    gc.collect()
    gc.freeze()
    for start in range(0, count - _ROW + 1, _ROW):
        for name, step in steps.items():
            watch = Stopwatch()
            with watch.running():
                for at in range(start, start + _ROW):
                    step(at)
            times[name].append(watch.thread / _ROW)
    gc.unfreeze()
    return times


def _sizes(waiting: Sequence[Event], halves: Sequence[Sealed], name: str) -> Iterator[Figure]:
    count = len(waiting)
    clear = policies.clear()
    bare = sum(len(seal(event).event) for event in waiting) / count
    plain = sum(len(seal(event, clear.rule_on(event), clear).event) for event in waiting) / count
    committed = sum(len(sealed.event) for sealed in halves) / count
    yield Figure(
        key=f"sealing.entry{name}",
        value=committed / bare,
        unit="×",
        note=f"{committed:.0f} bytes, in clear {bare:.0f};"
        f" under a policy that keeps it in clear {plain:.0f}",
    )
