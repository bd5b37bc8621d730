"""Document: a policy as TOML text, and back, or an error that names line and key."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indelible.document import (
    MAX_DOCUMENT,
    Source,
    default,
    default_text,
    key_text,
    parse,
)
from indelible.errors import CallerError, InvalidPolicy
from indelible.event import Actor, Event, Outcome, Resource
from indelible.fields import STRUCTURE, VALUES
from indelible.policy import (
    CUSTODY,
    OWNER,
    Approvals,
    BreakGlass,
    FieldClass,
    FieldRule,
    Level,
    Person,
    Policy,
    Retention,
    Rule,
    Sight,
    Stream,
)

SHOP = (Path(__file__).parent / "policies" / "shop.toml").read_text("utf-8")
LEAST = 'policy = { id = "shop", version = 1 }\n'


def refused(text: str) -> InvalidPolicy:
    """Return the error for a document that must be refused."""
    with pytest.raises(InvalidPolicy) as caught:
        parse(text.encode())
    return caught.value


def event(action: str = "invoice.approve", actor: str = "user:alice") -> Event:
    """Return an event in which somebody does something to an invoice."""
    return Event(
        action=action,
        outcome=Outcome.SUCCESS,
        actor=Actor.parse(actor),
        resource=Resource.parse("invoice:INV-7"),
    )


def test_a_document_says_all_that_a_policy_is() -> None:
    """Each part of a document becomes a typed part of the policy, and nothing is lost."""
    policy = parse(SHOP.encode())

    assert ("shop", 7, "security@example.com") == (policy.id, policy.version, policy.owner)
    assert f"sha256:{'3f9a02c1' * 8}" == policy.supersedes
    assert SHOP.encode() == policy.text
    assert (
        Stream(retention="long", on_failure="refuse", require=("rationale",), sinks=("siem",))
        == (policy.streams["admin"])
    )
    assert Retention(floor="6y", ceiling="7y", worm=True) == policy.retention["long"]
    assert 5 == len(policy.rules)
    assert (
        Rule(action="health.*", level=Level.NONE, why="no user action", approved_by=("ciso", "dpo"))
        == policy.rules[0]
    )
    assert Approvals(n=2, from_=("sec-lead", "it-lead"), valid="24h") == policy.rules[2].approvals
    assert "1/h" == policy.rules[3].expect
    assert (
        FieldRule(class_=FieldClass.PERSONAL, subject="actor", search="prefix", ceiling="90d")
        == policy.fields["/client/ip"]
    )
    assert (
        Person(
            name="Alice",
            key="ed25519:AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=",
            roles=("audit-lead",),
        )
        == (policy.people["alice"])
    )
    assert Sight.GRANT == policy.roles["auditor"][FieldClass.PERSONAL]


def test_interventions_are_governed_as_written() -> None:
    """How many approve, who they are, how long it is valid and when it may begin are all kept."""
    governance = parse(SHOP.encode()).governance

    assert (
        Approvals(n=2, from_=("dpo", "audit-lead"), valid="7d", cooling_off="72h")
        == governance.erasure
    )
    assert Approvals(n=1, from_=("dpo", "audit-lead"), valid="8h") == governance.grants
    assert "required" == governance.purpose
    assert (
        BreakGlass(max="1h", who=("on-call",), alert=("ciso", "dpo"), review="24h")
        == governance.break_glass
    )
    assert Approvals(n=1, from_=(OWNER,)) == governance.loosening
    assert None is governance.purge


def test_the_trail_always_writes_about_itself() -> None:
    """There is a custody stream that nothing can turn off or send elsewhere."""
    policy = parse((LEAST + '[streams]\nuser = {}\ncustody = { sinks = ["siem"] }\n').encode())

    assert Stream(sinks=("siem",)) == policy.streams[CUSTODY]
    assert Stream() == parse(LEAST.encode()).streams[CUSTODY]
    for said in ('on_failure = "continue"', 'retention = "std"', 'require = ["session"]'):
        assert "streams.custody" in str(refused(f"{LEAST}[streams]\ncustody = {{ {said} }}"))


def test_a_document_may_say_little() -> None:
    """Without streams there is one, and without fields all is personal."""
    policy = parse(LEAST.encode())

    assert ["user", CUSTODY] == list(policy.streams)
    assert "user" == policy.rule_on(event()).stream
    assert FieldClass.PERSONAL == policy.field("/actor/id", "user", "invoice").class_


def test_the_digest_is_that_of_the_exact_bytes() -> None:
    """A comment more is another document, so that what was approved is what is in force."""
    one, other = parse(LEAST.encode()), parse(f"{LEAST}# a word\n".encode())

    assert one.digest != other.digest
    assert one.label != other.label
    assert one.label.startswith("shop/1#")


# Each: what stands in the example, what is put there, the key and what is said of it.
SLIPS = [
    ('stream = "auth"', 'streem = "auth"', "rule[3].streem", "an unknown key"),
    ('id = "shop"', 'id = "shop/7"', "policy.id", "'shop/7', expected a name"),
    ("version = 7", "version = 0", "policy.version", "0, expected a whole number from 1"),
    ("version = 7", 'version = "7"', "policy.version", "'7', expected a whole number"),
    ("version = 7", "version = true", "policy.version", "True, expected a whole number"),
    ("version = 7", "version = 7.0", "policy.version", "7.0, expected a whole number"),
    ("sha256:3f", "sha256:3F", "policy.supersedes", "expected sha256: and 64 hex digits"),
    ('supersedes = "sha256:', 'supersedes = "', "policy.supersedes", "expected sha256:"),
    (
        'on_failure = "refuse"',
        'on_failure = "stop"',
        "streams.admin.on_failure",
        "'stop', expected",
    ),
    ('retention = "long"', 'retention = "lang"', "streams.admin.retention", "one of std, long"),
    ('require = ["rationale"]', 'require = ["why"]', "streams.admin.require[0]", "'why', expected"),
    ("admin = {", "Admin = {", "streams.Admin", "small letters"),
    ('floor = "6y"', 'floor = "8y"', "retention.long.floor", "no more than the ceiling, 7y"),
    ('floor = "6y"', 'floor = "6 years"', "retention.long.floor", "expected a duration"),
    ('floor = "6y"', 'floor = "999999y"', "retention.long.floor", "no more than the ceiling, 7y"),
    ("worm = true", 'worm = "yes"', "retention.long.worm", "'yes', expected true or false"),
    ('level = "none"', 'level = "off"', "rule[0].level", "none, metadata, changes, full"),
    ('action = "health.*"', 'action = "health*"', "rule[0].action", "expected an action"),
    ('why = "no user action"', 'outcome = ["won"]', "rule[0].outcome[0]", "'won', expected one of"),
    ('why = "no user action"', 'kinds = ["login"]', "rule[0].kinds[0]", "'login', expected one"),
    ('why = "no user action"', 'actor = ["robot"]', "rule[0].actor[0]", "'robot', expected one of"),
    ('why = "no user action"', 'actor = "user"', "rule[0].actor", "'user', expected an array"),
    ('why = "no user action"', "actor = []", "rule[0].actor", "expected an array of at least 1"),
    ('why = "no user action"', 'resource = ["a b"]', "rule[0].resource[0]", "a type of resources"),
    ('why = "no user action"', 'why = ""', "rule[0].why", "'', expected a text"),
    ('why = "no user action"', 'why = "\\u0000"', "rule[0].why", "expected a text"),
    ('why = "no user action"', 'name = "a\\nb"', "rule[0].name", "expected a text of one line"),
    (
        'approved_by = ["ciso", "dpo"]',
        'approved_by = ["a", "a"]',
        "rule[0].approved_by",
        "each once",
    ),
    ('stream = "auth"', 'stream = "nowhere"', "rule[3].stream", "one of user, auth, admin"),
    ('stream = "auth"', 'stream = "custody"', "rule[3].stream", "one of user, auth, admin"),
    ('expect = "1/h"', 'expect = "often"', "rule[3].expect", "such as 1/h"),
    ('{ n = 2, from = ["sec', '{ n = 3, from = ["sec', "rule[2].approvals.n", "at most 2"),
    ('{ class = "internal"', '{ class = "inner"', 'fields."/rationale".class', "'inner', expected"),
    ('{ class = "internal", ', "{ ", 'fields."/rationale".class', "nothing, expected a value"),
    (
        'subject = "actor", search = "exact"',
        'subject = "alice"',
        'fields."/actor/id".subject',
        "one",
    ),
    ('ceiling = "90d"', 'ceiling = "90"', 'fields."/client/ip".ceiling', "expected a duration"),
    (
        'ceiling = "90d"',
        'ceiling = "90d", floor = "13w"',
        'fields."/client/ip".floor',
        "no more than the ceiling, 90d",
    ),
    ('"/client/ip" ', '"client/ip" ', 'fields."client/ip"', "a path that begins with '/'"),
    ('"/client/ip" ', '"/client/~2" ', 'fields."/client/~2"', "a JSON pointer"),
    ('"/client/ip" ', '"/client/ipp" ', 'fields."/client/ipp"', "one of /reason, /actor/id"),
    ('"/client/ip" ', '"/nothing/*" ', 'fields."/nothing/*"', "one of /reason, /actor/id"),
    ('"/changes/status"', '"/changes/a/b"', 'fields."/changes/a/b"', "or one name or '*' below"),
    ('"/changes/status"', '"/changes/a*"', 'fields."/changes/a*"', "or one name or '*' below"),
    ('"/changes/status"', '"/changes/"', 'fields."/changes/"', "a JSON pointer"),
    ('"/actor/id" ', '"/actor/id@robot" ', 'fields."/actor/id@robot"', "one of user, service"),
    ("user,customer,patient", "user, customer", 'fields."/resource/id@user, customer"', "a type"),
    ("user,customer,patient", "user,user", 'fields."/resource/id@user,user"', "each type once"),
    ("@user,customer,patient", "@", 'fields."/resource/id@"', "a type of resources"),
    ('"/changes/*" ', '"/resource/id@patient" ', 'fields."/resource/id@patient"', "each once"),
    ('"/actor/id" ', '"/actor/type" ', 'fields."/actor/type".class', "expected public"),
    (
        '"/changes/status"   = { class = "public" }',
        '"/changes/status" = { class = "public", search = "exact" }',
        'fields."/changes/status".search',
        "'exact', expected none: of a public field",
    ),
    (
        '"/changes/status"   = { class = "public" }',
        '"/changes/status" = { class = "public", subject = "actor" }',
        'fields."/changes/status".subject',
        "expected none",
    ),
    (
        '{ class = "secret" }',
        '{ class = "secret", subject = "actor" }',
        'fields."/changes/password".subject',
        "expected none: of a secret field no value is kept",
    ),
    (
        '{ class = "secret" }',
        '{ class = "secret", fingerprint = true, search = "exact" }',
        'fields."/changes/password".search',
        "expected none",
    ),
    (
        '"/changes/status"   = { class = "public" }',
        '"/changes/status" = { class = "public", fingerprint = true }',
        'fields."/changes/status".fingerprint',
        "of secrets only",
    ),
    ("alice = {", '"al ice" = {', 'people."al ice"', "a name of at most 64 letters"),
    ("alice = {", "owner = {", "people.owner", "another name"),
    ('name = "Alice", ', "", "people.alice.name", "nothing, expected a value"),
    ('["audit-lead"] }', '["owner"] }', "people.alice.roles[0]", "another role"),
    ("ed25519:Ag", "ed448:Ag", "people.alice.key", "expected ed25519:<base64 of the 32 bytes"),
    ("AgICAgI=", "AgICAgI", "people.alice.key", "something else, expected ed25519:"),
    ("AgICAgI=", "AgICAgJ=", "people.alice.key", "something else, expected ed25519:"),
    ("AgICAgI=", "AgIC", "people.alice.key", "something else, expected ed25519:"),
    ("AgICAgICAgI=", "AgICAgICAgICAgI=", "people.alice.key", "something else, expected ed25519:"),
    ("reader  =", "owner  =", "roles.owner", "another role"),
    (
        'reader  = { internal = "hide"',
        'reader = { public = "hide"',
        "roles.reader.public",
        "internal",
    ),
    (
        'reader  = { internal = "hide"',
        'reader = { internal = "no"',
        "roles.reader.internal",
        "plain",
    ),
    ('n = 1, from = ["dpo", ', "n = 0, from = [", "governance.grants.approvals.n", "from 1"),
    ('n = 2, from = ["dpo", ', "n = 2, from = [", "governance.erasure.approvals.n", "at most 1"),
    (
        'n = 2, from = ["dpo", ',
        'n = 2, from = ["dpq", ',
        "governance.erasure.approvals.from[0]",
        "dpq",
    ),
    ('cooling_off = "72h"', 'cooling = "72h"', "governance.erasure.cooling", "an unknown key"),
    ('cooling_off = "72h"', 'cooling_off = "0h"', "governance.erasure.cooling_off", "a duration"),
    ('purpose = "required"', 'purpose = "maybe"', "governance.grants.purpose", "'maybe', expected"),
    ('who = ["on-call"]', "who = []", "governance.break_glass.who", "at least 1"),
]


@pytest.mark.parametrize(("old", "new", "key", "said"), SLIPS, ids=[slip[2] for slip in SLIPS])
def test_a_slip_is_refused_where_it_stands(old: str, new: str, key: str, said: str) -> None:
    """Whoever mistypes learns on which line, under which key, and what may stand there."""
    assert old in SHOP
    text = SHOP.replace(old, new, 1)
    line = SHOP[: SHOP.index(old)].count("\n") + 1

    error = refused(text)

    assert (line, True) == (error.line, str(error.key).startswith(key))
    assert str(error).startswith(f"line {line}: {key}")
    assert said in str(error)
    assert isinstance(error, CallerError)


SHOP_OF_TWINS = (
    LEAST
    + """[people]
a = { name = "A", key = "ed25519:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=" }
b = { name = "B", key = "ed25519:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=" }
"""
)


@pytest.mark.parametrize(
    ("text", "key", "line"),
    [
        ("", "policy", 1),
        ("[policy]\nid = 'shop'\n", "policy.version", 1),
        (f"{LEAST}\npolicies = 3", "policies", 3),
        (f"{LEAST}streams = 3", "streams", 2),
        (f"{LEAST}[[rules]]\n", "rules", 2),
        (f"{LEAST}rule = {{}}\n", "rule", 2),
        (f"{LEAST}rule = [3]\n", "rule[0]", 2),
        (f"{LEAST}fields = []\n", "fields", 2),
        (f"{LEAST}[fields]\n'*' = 'personal'\n", 'fields."*"', 3),
        (f"{LEAST}[streams]\nadmin = {{}}\n", "streams", 2),
        (f"{LEAST}[streams]\nadmin = {{}}\n[[rule]]\n", "rule[0].stream", 4),
        (
            f"{LEAST}[governance.erasure.approvals]\nfrom = []\n",
            "governance.erasure.approvals.from",
            3,
        ),
        (
            f"{LEAST}[governance.erasure]\nvalid = '1d'\napprovals = {{ valid = '2d' }}\n",
            "governance.erasure.valid",
            3,
        ),
        (
            SHOP_OF_TWINS,
            "people.b.key",
            4,
        ),
    ],
)
def test_what_is_missing_or_of_another_form_is_named(text: str, key: str, line: int) -> None:
    """A part that is not there, or is something else, is named with the nearest line."""
    error = refused(text)

    assert (key, line) == (error.key, error.line)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"{LEAST}[streams\n", 2),
        (f'{LEAST}\n\n[streams]\nuser = "\n', 5),
        (f"{LEAST}[streams]\n[streams]\n", 3),
        (f"{LEAST}x = [1,", 2),
        (f"{LEAST}x = '''\n\n", 4),
        (f"{LEAST}x = {'[' * 5_000}{']' * 5_000}\n", 1),
        (f"{LEAST}x = {'1' * 5_000}\n", 1),
        (f"{LEAST}#{'x' * MAX_DOCUMENT}\n", 1),
    ],
)
def test_what_is_no_toml_is_refused_where_it_ends(text: str, line: int) -> None:
    """A syntax error has a line, and no key."""
    error = refused(text)

    assert line == error.line
    assert None is error.key
    assert str(error).startswith(f"line {line}: found ")


def test_bytes_that_are_no_text_are_refused() -> None:
    """A document is UTF-8; the line of the first other byte is named."""
    with pytest.raises(InvalidPolicy, match="line 2: found bytes that are not UTF-8"):
        parse(LEAST.encode() + b"# \xff")


def test_a_private_key_is_not_shown() -> None:
    """Whoever pastes the wrong key does not find it in an error, and so in a log."""
    secret = "PRIVATE+KEY+dpo+0123abcd+AQEBAQEBAQEB"  # noqa: S105 - none

    error = refused(SHOP.replace("ed25519:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=", secret))

    assert "people.dpo.key" == error.key
    assert "PRIVATE" not in str(error)


def test_lines_are_found_in_any_form_of_toml() -> None:
    """Neither texts nor arrays of several lines, nor quoted and dotted keys, confuse the lines."""
    text = (
        "# [not.a.table]\n"
        'first = """\n'
        "[also.not]\n"
        'key = 1 \\""""\n'
        "second = '''\n"
        "# no comment'''  # but this\n"
        'list = [ # [\n  "a]", # ]\n  [1,\n  2],\n  { b = "}", "c d" = [3] },\n]\n'
        "dotted . 'key with = sign' = 1979-05-27 07:32:00\n"
        "[table.'inner one']\n"
        "x = 1.5\n"
        "[[rule]]\n"
        "[[rule]]\n"
        "a = 1\n"
        "  [rule.sub]\n"
        "  b = 2\n"
        "  [[rule.many]]\n"
        "  [[rule.many]]\n"
        "  c = 3\n"
    )
    source = Source(text.encode())

    found = {
        path: source.line(path)
        for path in [
            ("first",),
            ("second",),
            ("list",),
            ("list", 0),
            ("list", 1),
            ("list", 1, 1),
            ("list", 2, "b"),
            ("list", 2, "c d", 0),
            ("dotted", "key with = sign"),
            ("table", "inner one"),
            ("table", "inner one", "x"),
            ("rule", 0),
            ("rule", 1, "a"),
            ("rule", 1, "sub", "b"),
            ("rule", 1, "many", 1, "c"),
            ("rule", 1, "many", 1, "unknown", 3),
            ("nowhere",),
        ]
    }

    assert [2, 5, 7, 8, 9, 10, 11, 11, 13, 14, 15, 16, 18, 20, 23, 22, 1] == list(found.values())


def test_a_policy_without_a_document_has_no_lines() -> None:
    """Of a policy that was built in code no line is made up."""
    assert None is Source(None).line(("policy",))
    assert 1 == Source(b"[no toml").line(("policy",))


def test_keys_are_written_as_the_document_writes_them() -> None:
    """A key in an error can be searched for in the file."""
    assert "rule[2].approvals.from[0]" == key_text(("rule", 2, "approvals", "from", 0))
    assert 'fields."/client/ip".class' == key_text(("fields", "/client/ip", "class"))
    assert '"a \\" b"' == key_text(('a " b',))


def outcome(data: bytes) -> Policy | InvalidPolicy:
    """Return what a document means, or why it is refused."""
    try:
        return parse(data)
    except InvalidPolicy as error:
        return error


CHUNKS = st.one_of(
    st.sampled_from(
        [
            "[",
            "]",
            "{",
            "}",
            '"',
            "'",
            '"""',
            "\n",
            "=",
            ".",
            ",",
            "#",
            "\0",
            "[[rule]]\n",
            "n = 1\n",
        ]
    ),
    st.text(max_size=5),
    st.builds(
        lambda start, size: SHOP[start : start + size], st.integers(0, 4000), st.integers(0, 60)
    ),
)


@given(
    edits=st.lists(
        st.tuples(st.integers(0, len(SHOP)), st.integers(0, 40), CHUNKS), min_size=1, max_size=4
    )
)
def test_any_document_is_a_policy_or_refused_with_its_line(
    edits: list[tuple[int, int, str]],
) -> None:
    """However a document was spoilt, it either means something or is refused in so many words."""
    text = SHOP
    for start, removed, added in edits:
        text = text[:start] + added + text[start + removed :]
    data = text.encode("utf-8", "surrogatepass")

    found = outcome(data)

    if isinstance(found, InvalidPolicy):
        assert found.line is not None
        assert 1 <= found.line <= data.count(b"\n") + 1
        assert "expected" in str(found)
    else:
        assert data == found.text
        assert CUSTODY in found.streams


# ---- The default policy ----


def test_the_default_policy_is_a_document_like_any_other() -> None:
    """What a trail does that was given no policy can be read, and copied."""
    assert default_text() == default().text
    assert ["user", "auth", "admin", CUSTODY] == list(default().streams)
    assert {"refuse"} == {stream.on_failure for stream in default().streams.values()}
    assert all(rule.name and rule.why for rule in default().rules)


@pytest.mark.parametrize(
    ("action", "actor", "stream"),
    [
        ("auth.login", "user:alice", "auth"),
        ("role.grant", "user:alice", "admin"),
        ("permission.revoke", "user:alice", "admin"),
        ("admin.restart", "user:alice", "admin"),
        ("invoice.approve", "user:alice", "user"),
    ],
)
def test_the_default_policy_sends_what_administrators_do_to_their_stream(
    action: str, actor: str, stream: str
) -> None:
    """Attempts to log in and administration are read apart from all else."""
    assert stream == default().rule_on(event(action, actor=actor)).stream


def test_the_default_policy_leaves_no_person_in_clear() -> None:
    """Whoever acted, and whoever it was done to, stand in no entry; what a service did may."""
    policy = default()

    in_clear = {
        path
        for path in VALUES
        if policy.field(path, "user", "customer").class_ is FieldClass.PUBLIC
    }

    assert {"/request", "/tenant", "/source/id"} == in_clear
    assert FieldClass.PUBLIC == policy.field("/actor/id", "service", "invoice").class_
    assert FieldClass.PUBLIC == policy.field("/resource/id", "user", "invoice").class_


def test_the_default_policy_lets_an_erasure_reach_all_that_is_personal() -> None:
    """Each personal value that an event can have belongs to its actor or its resource."""
    policy = default()
    paths = [*VALUES, "/changes/email", "/data"]
    paths.remove("/changes")  # each name below it has a path of its own

    rules = [policy.field(path, "user", kind) for path in paths for kind in ("customer", "invoice")]

    assert all(rule.subject for rule in rules if rule.class_ is FieldClass.PERSONAL)


@pytest.mark.parametrize("container", ["changes", "data"])
@pytest.mark.parametrize("name", ["password", "api_key", "card_number", "cvv", "otp_secret"])
def test_the_default_policy_keeps_no_secret(container: str, name: str) -> None:
    """Passwords, keys and card numbers are dropped wherever they are recorded."""
    assert FieldClass.SECRET == default().field(f"/{container}/{name}", "user", "user").class_


def test_what_holds_the_trail_together_cannot_be_hidden() -> None:
    """A policy may say that structure is public, which it is; it may say nothing else."""
    for path in STRUCTURE:
        parse(f'{LEAST}[fields]\n"{path}" = {{ class = "public" }}\n'.encode())

        assert "expected public" in str(
            refused(f'{LEAST}[fields]\n"{path}" = {{ class = "personal" }}\n')
        )
