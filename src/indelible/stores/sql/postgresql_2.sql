-- The keyring: keys of the vault, each wrapped. A schema of its own, so that it can have
-- backups of its own that live shortly, or lie in another database.

CREATE SCHEMA indelible_keyring;

CREATE SEQUENCE indelible_keyring.changes;

CREATE TABLE indelible_keyring.kek (
    version    bigint PRIMARY KEY,
    kind       text NOT NULL,           -- of its keeper: file, passphrase, aws-kms
    wrapped    bytea NOT NULL,
    created_at bigint NOT NULL          -- microseconds since 1970
);

CREATE TABLE indelible_keyring.index_key (
    number     bigint PRIMARY KEY,
    kek        bigint NOT NULL,
    wrapped    bytea NOT NULL,
    created_at bigint NOT NULL
);

CREATE TABLE indelible_keyring.data_key (
    id      bytea PRIMARY KEY,          -- UUIDv7
    subject bytea NOT NULL,             -- keyed hash; empty for nobody's
    class   text NOT NULL,
    month   bigint NOT NULL,
    kek     bigint NOT NULL,
    wrapped bytea NOT NULL
);

CREATE INDEX data_key_subject ON indelible_keyring.data_key (subject, month);

CREATE INDEX data_key_kek ON indelible_keyring.data_key (kek);

-- Erasures that were carried out, so that an older copy of the boxes can be made to
-- forget them as well. digest: of the plan.
CREATE TABLE indelible_keyring.erasure (
    digest bytea PRIMARY KEY,
    data   bytea NOT NULL
);
