"""Reference: what a policy means, for auditors."""

from __future__ import annotations

import re
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import pytest

from indelible.document import default, parse
from indelible.policy import Person, Policy, Rule, Stream
from indelible.reference import to_html, to_markdown

SHOP = (Path(__file__).parent / "policies" / "shop.toml").read_text("utf-8")
HEAD = 'policy = { id = "shop", version = 1 }\n'
FORMS = [to_markdown, to_html]


class Page(HTMLParser):
    """The elements and texts of a page, of which each element must be closed."""

    VOID = frozenset(("meta",))

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what is opened."""
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Check that it is what was opened last."""
        assert tag == self.open.pop()

    def handle_data(self, data: str) -> None:
        """Keep the text."""
        if data.strip():
            self.texts.append(data)


def rows(markdown: str, title: str) -> list[list[str]]:
    """Return the cells of the table below a heading, without its own."""
    section = markdown.partition(f"## {title}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def test_each_part_of_a_policy_has_its_table() -> None:
    """An auditor finds fields, rules, streams, roles, people and approvals in one document."""
    markdown = to_markdown(parse(SHOP.encode()))

    assert [
        "/client/ip",
        "personal",
        "actor",
        "the whole value, or its network",
        "",
        "90d",
        "",
    ] in (rows(markdown, "Fields"))
    assert [
        "3",
        r"role.\*",
        r"action role.\*",
        "full",
        "admin",
        "",
        "2 of sec-lead, it-lead, within 24h",
        "",
        "privilege changes",
        "PCI:10.2.1.5, SOC2:CC6.2",
    ] in rows(markdown, "Rules")
    assert [
        "admin",
        "long, write-once",
        "6y",
        "7y",
        "the action is refused",
        "rationale",
        "siem",
    ] in rows(markdown, "Streams and retention")
    assert ["auditor", "plain", "plain", "grant"] in rows(markdown, "Who sees what")
    assert ["owner", "plain", "plain", "plain"] in rows(markdown, "Who sees what")
    assert [
        "dpo",
        "Data protection officer",
        "dpo",
        sha256(b"\1" * 32).hexdigest(),
    ] in rows(markdown, "People who approve")
    assert [
        "erase values",
        "2 of dpo, audit-lead, within 7d, and not before 72h after the plan",
    ] in rows(markdown, "Whose approval is needed")


def test_rules_stand_in_the_order_in_which_they_are_tried() -> None:
    """The first that matches decides, so their order is what they mean."""
    found = rows(to_markdown(parse(SHOP.encode())), "Rules")

    assert [
        ["1", r"health.\*"],
        ["2", r"\*"],
        ["3", r"role.\*"],
        ["4", r"auth.\*"],
        ["5", r"\*"],
    ] == [row[:2] for row in found]
    assert ["actor with role admin or staff", "every event"] == [found[1][2], found[4][2]]


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (
            '[[rule]]\naction = "health.*"\nlevel = "none"\nwhy = "noise"\napproved_by = ["dpo"]\n',
            "Not captured: action health.* (noise; agreed by dpo).",
        ),
        ('[[rule]]\nlevel = "none"\n', "Not captured: every event (no reason is given)."),
        (
            '[[rule]]\naction = "read.*"\nlevel = "metadata"\nwhy = "many"\n',
            "Captured without changes and data: action read.* (many).",
        ),
        (
            '[[rule]]\nresource = ["file"]\nlevel = "changes"\nwhy = "large"\n',
            "Captured without data: resource of type file (large).",
        ),
        ("", "Every event is captured as a whole."),
        ("", "A field that no pattern names is personal: committed"),
        (
            '[fields]\n"*" = { class = "secret" }\n',
            "A field that no pattern names is secret: dropped",
        ),
        (
            '[fields]\n"/changes/pin" = { class = "secret" }\n',
            "Of secrets, nothing but that it was there is kept: /changes/pin.",
        ),
        (
            '[fields]\n"/changes/pin" = { class = "secret", fingerprint = true }\n',
            "Of secrets, a keyed fingerprint is kept: /changes/pin.",
        ),
        ('[fields]\n"/tenant" = { class = "public" }\n', "only a purge of the entry: /tenant."),
        ("", "Without a ceiling, and so kept until a policy gives one: user."),
        ("", "What no rule matches goes to the stream user as a whole."),
        ("", "Nobody is named: only the owner of the trail can approve."),
        ("", "what the owner approves is self-approved, and every report says so."),
        (
            '[governance]\nbreak_glass = { max = "1h", who = ["on-call"] }\n',
            "In an emergency, on-call may open values for 1h before anybody has approved;",
        ),
        (
            '[governance]\nbreak_glass = { max = "1h", who = ["on-call"] }\n',
            "alerted: nobody; looked at at no set time.",
        ),
    ],
)
def test_what_is_not_kept_is_said_as_plainly(said: str, sentence: str) -> None:
    """Nobody has to conclude from a table what is left out, dropped, or never goes away."""
    policy = parse((HEAD + said).encode())

    assert any(sentence in text for text in Page(to_html(policy)).texts)
    assert sentence in re.sub(r"\\(.)", r"\1", to_markdown(policy))


def test_the_owner_is_explained_where_the_owner_approves() -> None:
    """Where only others may approve, nothing is called self-approved."""
    loosening = 'loosening = { approvals = { n = 2, from = ["dpo", "audit-lead"] } }\n'

    assert "self-approved" in to_markdown(parse(SHOP.encode()))
    assert "self-approved" not in to_markdown(parse((SHOP + loosening).encode()))


@pytest.mark.parametrize("write", FORMS)
def test_it_names_the_very_document(write: object) -> None:
    """The reference says of which version it is, by the digest that entries name."""
    policy = parse(SHOP.encode())

    text = write(policy)  # type: ignore[operator]

    assert "shop/7" in text
    assert policy.digest.hex() in text
    assert str(policy.supersedes) in text
    assert "That a trail keeps to it, its own entries and their verification have to show." in text


def test_the_page_needs_nothing_else() -> None:
    """It has no scripts, no pictures and no links: it can be kept, printed and read anywhere."""
    text = to_html(default())
    page = Page(text)

    assert [] == page.open
    assert set() == page.tags & {"script", "link", "img", "iframe", "a", "form"}
    assert set() == page.attributes & {"src", "href", "style", "onclick", "onload"}
    assert "@media print" in text
    assert "url(" not in text


def test_what_a_policy_says_stays_text() -> None:
    """Neither markup nor control characters of a policy reach whoever reads about it."""
    policy = Policy(
        streams={"user": Stream()},
        rules=(
            Rule(name="<script>alert(1)</script>", why="a | b\n[x](y) \u202e`c`"),
            Rule(name="&amp;"),
        ),
        people={"x": Person(name="<b>", key="no base64")},
    )

    page = Page(to_html(policy))
    markdown = to_markdown(policy)

    assert set() == page.tags & {"script", "b"}
    assert {"<script>alert(1)</script>", "&amp;", "<b>", "no key"} <= set(page.texts)
    assert ["1", r"\<script\>alert(1)\</script\>", "every event"] == rows(markdown, "Rules")[0][:3]
    assert r"a \| b \[x\](y) \\u202e\`c\`" == rows(markdown, "Rules")[0][8]
    assert r"\&amp;" == rows(markdown, "Rules")[1][1]
