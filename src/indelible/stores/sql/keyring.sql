-- The keyring: keys of the vault, each wrapped. A file of its own, with backups of its own
-- that live shortly: what is destroyed here is out of reach wherever boxes were copied to.

CREATE TABLE kek (
    version    INTEGER PRIMARY KEY,
    kind       TEXT NOT NULL,           -- of its keeper: file, passphrase, aws-kms
    wrapped    BLOB NOT NULL,
    created_at INTEGER NOT NULL         -- microseconds since 1970
) STRICT;

CREATE TABLE index_key (
    number     INTEGER PRIMARY KEY,
    kek        INTEGER NOT NULL,
    wrapped    BLOB NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE data_key (
    id      BLOB PRIMARY KEY,           -- UUIDv7
    subject BLOB NOT NULL,              -- keyed hash; empty for nobody's
    class   TEXT NOT NULL,
    month   INTEGER NOT NULL,
    kek     INTEGER NOT NULL,
    wrapped BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX data_key_subject ON data_key (subject, month);

CREATE INDEX data_key_kek ON data_key (kek);

-- Erasures that were carried out, so that an older copy of the boxes can be made to
-- forget them as well. digest: of the plan.
CREATE TABLE erasure (
    digest BLOB PRIMARY KEY,
    data   BLOB NOT NULL
) STRICT, WITHOUT ROWID;
