"""Keepers: the environment says who keeps the key of the vault's keys."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

import indelible
from indelible.errors import CallerError, KeyUnavailable
from indelible.keepers import PASSPHRASE, SETTING, keeper_of
from indelible.kek import KeyFile, Passphrase

if TYPE_CHECKING:
    from pathlib import Path

KEK = bytes(range(32))


@pytest.mark.parametrize("environment", [{}, {SETTING: ""}, {SETTING: "file"}])
def test_a_file_beside_the_signing_keys_keeps_it(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    """Without a setting, nothing has to be set up: the key lies where the others lie."""
    keeper = keeper_of(tmp_path, environment)

    wrapped = keeper.wrap(KEK, 1)

    assert isinstance(keeper, KeyFile)
    assert [tmp_path / "vault-1.key"] == list(tmp_path.iterdir())
    assert KEK == KeyFile(tmp_path).unwrap(wrapped, 1)


def test_a_passphrase_keeps_it(tmp_path: Path) -> None:
    """The passphrase comes from the environment, and no file is made."""
    keeper = keeper_of(tmp_path, {SETTING: "passphrase", PASSPHRASE: "correct horse"})

    wrapped = keeper.wrap(KEK, 1)

    assert "passphrase" == keeper.kind
    assert [] == list(tmp_path.iterdir())
    assert KEK == Passphrase("correct horse").unwrap(wrapped, 1)


@pytest.mark.parametrize("environment", [{}, {PASSPHRASE: ""}])
def test_a_passphrase_that_is_not_there_is_asked_for(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    """An empty passphrase is none; the message names the setting that must hold it."""
    keeper = keeper_of(tmp_path, {SETTING: "passphrase", **environment})

    assert "passphrase" == keeper.kind
    for use in (
        lambda: keeper.wrap(KEK, 1),
        lambda: keeper.unwrap(b"wrapped", 1),
        lambda: keeper.destroy(1),
    ):
        with pytest.raises(
            KeyUnavailable, match=f"version 1: {SETTING} says passphrase, but {PASSPHRASE} is"
        ):
            use()


def test_without_the_passphrase_what_is_public_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has no passphrase sees what everybody sees, and is told which key is wanting."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv(SETTING, "passphrase")
    monkeypatch.setenv(PASSPHRASE, "correct horse")
    with indelible.open(tmp_path / "audit") as audit:
        audit.record("invoice.pay", actor="user:alice", resource="invoice:7")
    monkeypatch.delenv(PASSPHRASE)

    with indelible.open(tmp_path / "audit", mode="r") as audit:
        (item,) = audit.search("resource:invoice:7").items
        verdict = audit.verify()
        with pytest.raises(KeyUnavailable, match=PASSPHRASE):
            audit.search("actor:user:alice")
    with indelible.open(tmp_path / "audit") as audit, pytest.raises(KeyUnavailable):
        audit.record("invoice.pay", actor="user:alice", resource="invoice:8")

    assert "user:[unreadable]" == str(item.event.actor)
    assert verdict.passed


@pytest.mark.parametrize("named", ["aws", "aws-kms:", "vault", "FILE", "file ", "passphrase:x"])
def test_a_keeper_that_does_not_exist_is_refused(tmp_path: Path, named: str) -> None:
    """A slip in a setting never puts a key where nobody expects it."""
    with pytest.raises(CallerError, match=f"^{SETTING}: found '{named}', expected file, pass"):
        keeper_of(tmp_path, {SETTING: named, PASSPHRASE: "correct horse"})

    assert [] == list(tmp_path.iterdir())


def test_a_passphrase_that_is_no_text_is_not_shown(tmp_path: Path) -> None:
    """What the environment holds besides text is refused without quoting it."""
    broken = os.fsdecode(b"correct\xff")

    with pytest.raises(CallerError, match="passphrase: found half a character") as caught:
        keeper_of(tmp_path, {SETTING: "passphrase", PASSPHRASE: broken})

    assert "correct" not in str(caught.value)


def test_a_key_management_service_is_named_by_its_alias(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``aws-kms:ALIAS`` is a keeper of its own kind; it is asked when a key is needed."""
    pytest.importorskip("boto3")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")

    keeper = keeper_of(tmp_path, {SETTING: "aws-kms:indelible"})

    assert "aws-kms" == keeper.kind
