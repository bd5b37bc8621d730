"""
A service for invoices, in FastAPI and SQLAlchemy, with an audit trail.

What concerns the trail: `__audit__` on what is captured, one `install`, one middleware,
and `authenticated` where the service finds out who asks. Run it::

    uvicorn service:app
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator  # noqa: TC003 - FastAPI reads the types
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Annotated

from fastapi import BackgroundTasks, Depends, FastAPI, Header, HTTPException
from pydantic import BaseModel
from sqlalchemy import Numeric, create_engine, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import indelible
from indelible import Actor
from indelible.background import BackgroundRelay
from indelible.context import authenticated, context
from indelible.frameworks import sqlalchemy as audit_sqlalchemy
from indelible.frameworks.asgi import AuditMiddleware
from indelible.outboxes import open_outbox
from indelible.relay import Relay

HOME = Path(os.environ.get("SERVICE_HOME", "home"))
HOME.mkdir(parents=True, exist_ok=True)
DATABASE = f"sqlite:///{HOME.resolve() / 'service.sqlite3'}"


class Base(DeclarativeBase):
    """The tables."""


class Invoice(Base):
    """What somebody has to pay."""

    __tablename__ = "invoice"
    __audit__ = {"personal": {"customer"}, "secret": {"iban"}}

    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str]
    iban: Mapped[str] = mapped_column(default="")
    amount: Mapped[Decimal] = mapped_column(Numeric(9, 2))
    status: Mapped[str] = mapped_column(default="draft")


engine = create_engine(DATABASE)
audit_sqlalchemy.outbox_table(Base.metadata)
audit_sqlalchemy.install(engine, Base)

TOKENS = {"alice-token": ("alice", ()), "carol-token": ("carol", ("admin",))}
"""Whom each token is for; a real service asks whoever gives them out."""


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Have a trail, and bring into it what is committed, for as long as the service runs."""
    Base.metadata.create_all(engine)
    with (
        indelible.open(HOME / "audit") as audit,
        BackgroundRelay(lambda: Relay(audit, open_outbox(DATABASE)), poll=0.2),
    ):
        yield


app = FastAPI(lifespan=lifespan)
app.add_middleware(AuditMiddleware, service="invoices")


def session() -> Iterator[Session]:
    """Give each request a session of its own."""
    with Session(engine) as found:
        yield found


def user(authorization: Annotated[str, Header()]) -> Actor:
    """Find out who asks, and tell the trail; in whatever thread this runs."""
    name, roles = TOKENS.get(authorization.removeprefix("Bearer "), (None, ()))
    if name is None:
        raise HTTPException(401)
    actor = Actor(type="user", id=name, roles=roles)
    authenticated(actor)
    return actor


def admin(actor: Annotated[Actor, Depends(user)]) -> Actor:
    """Let only administrators in."""
    if "admin" not in actor.roles:
        raise HTTPException(403)
    return actor


class New(BaseModel):
    """An invoice to come."""

    customer: str
    iban: str = ""
    amount: Decimal


@app.post("/invoices")
def create(
    new: New, db: Annotated[Session, Depends(session)], _: Annotated[Actor, Depends(user)]
) -> dict[str, int]:
    """Make an invoice."""
    invoice = Invoice(**new.model_dump())
    db.add(invoice)
    db.commit()
    return {"id": invoice.id}


@app.post("/invoices/{number}/approve")
def approve(
    number: int,
    rationale: Annotated[str, Header()],
    db: Annotated[Session, Depends(session)],
    _: Annotated[Actor, Depends(admin)],
) -> dict[str, str]:
    """Approve an invoice, and say why."""
    invoice = db.get(Invoice, number)
    if invoice is None:
        raise HTTPException(404)
    with context(rationale=rationale):
        invoice.status = "approved"
        db.flush()
        audit_sqlalchemy.record(db, "invoice.approve", resource=f"invoice:{number}")
        db.commit()
    return {"status": invoice.status}


@app.post("/invoices/raise")
def raise_amounts(
    percent: int, tasks: BackgroundTasks, _: Annotated[Actor, Depends(admin)]
) -> dict[str, bool]:
    """Raise all drafts, in one statement, after the answer is sent."""

    def work() -> None:
        with Session(engine) as db:
            factor = Decimal(100 + percent) / 100
            drafts = update(Invoice).where(Invoice.status == "draft")
            db.execute(drafts.values(amount=Invoice.amount * factor))
            db.commit()

    tasks.add_task(work)
    return {"accepted": True}


@app.get("/invoices")
def invoices(
    db: Annotated[Session, Depends(session)], _: Annotated[Actor, Depends(user)]
) -> list[dict[str, str]]:
    """List them."""
    return [
        {"id": str(each.id), "amount": f"{each.amount:.2f}", "status": each.status}
        for each in db.scalars(select(Invoice).order_by(Invoice.id))
    ]
