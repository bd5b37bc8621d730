"""
A helpdesk, in Flask and SQLAlchemy, with an audit trail.

What concerns the trail: `__audit__` on what is captured, one `install`, and `Audit(app)`.
Run it::

    flask --app app run
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from flask import Flask, abort, g, jsonify, request
from sqlalchemy import ForeignKey, create_engine, delete, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

import indelible
from indelible.background import BackgroundRelay
from indelible.context import context
from indelible.frameworks import sqlalchemy as audit_sqlalchemy
from indelible.frameworks.flask import Audit
from indelible.outboxes import open_outbox
from indelible.relay import Relay

HOME = Path(os.environ.get("HELPDESK_HOME", "home"))
HOME.mkdir(parents=True, exist_ok=True)
DATABASE = f"sqlite:///{HOME.resolve() / 'helpdesk.sqlite3'}"


class Base(DeclarativeBase):
    """The tables."""


class Ticket(Base):
    """What somebody needs help with."""

    __tablename__ = "ticket"
    __audit__ = {"personal": {"text"}}

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]
    status: Mapped[str] = mapped_column(default="open")
    answers: Mapped[list[Answer]] = relationship(cascade="all, delete-orphan")


class Answer(Base):
    """What was answered; it goes with its ticket."""

    __tablename__ = "answer"
    __audit__ = {"personal": {"text"}}

    id: Mapped[int] = mapped_column(primary_key=True)
    ticket_id: Mapped[int] = mapped_column(ForeignKey("ticket.id"))
    text: Mapped[str]


engine = create_engine(DATABASE)
audit_sqlalchemy.outbox_table(Base.metadata)
audit_sqlalchemy.install(engine, Base)
Base.metadata.create_all(engine)

app = Flask(__name__)
trail = indelible.open(HOME / "audit")
Audit(app, trail, service="helpdesk", actor=lambda: g.get("actor"))
relay = BackgroundRelay(lambda: Relay(trail, open_outbox(DATABASE)), poll=0.2).start()


@app.before_request
def authenticate() -> None:
    """Find out who asks; a real application reads a session or a token."""
    name = request.headers.get("X-User")
    if name is not None:
        g.actor = f"user:{name}"


@app.post("/tickets")
def create() -> Any:
    """Open a ticket."""
    if "actor" not in g:
        abort(401)
    with Session(engine) as db:
        ticket = Ticket(text=request.get_json()["text"])
        db.add(ticket)
        db.commit()
        return jsonify(id=ticket.id)


@app.post("/tickets/<int:number>/answer")
def answer(number: int) -> Any:
    """Answer a ticket, and close it."""
    with Session(engine) as db:
        ticket = db.get_one(Ticket, number)
        ticket.answers.append(Answer(text=request.get_json()["text"]))
        ticket.status = "closed"
        db.commit()
        return jsonify(status=ticket.status)


@app.delete("/tickets/<int:number>")
def remove(number: int) -> Any:
    """Delete a ticket with its answers, and say why."""
    with Session(engine) as db, context(rationale=request.headers.get("X-Rationale")):
        db.delete(db.get_one(Ticket, number))
        db.commit()
    return jsonify(deleted=number)


@app.cli.command("close-old")
def close_old() -> None:
    """Close all open tickets in one statement, as a nightly job does."""
    nightly()


def nightly() -> None:
    """Close what is open, and delete answers without a text."""
    with Session(engine) as db, context(actor="service:nightly"):
        db.execute(update(Ticket).where(Ticket.status == "open").values(status="closed"))
        db.execute(delete(Answer).where(Answer.text == ""))
        db.commit()
