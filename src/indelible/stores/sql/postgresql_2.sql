-- The keyring: keys of the vault, each wrapped. A schema of its own, so that it can have
-- backups of its own that live shortly, or lie in another database.

CREATE SCHEMA indelible_keyring;

-- One row. Counts what was changed, in the transaction that changes it.
CREATE TABLE indelible_keyring.changes (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    count    bigint NOT NULL DEFAULT 0
);

INSERT INTO indelible_keyring.changes DEFAULT VALUES;

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

-- Write the tables of keys anew, with the rows that they have: what was deleted is then in
-- no file of theirs. Nobody may be reading.
CREATE FUNCTION indelible_keyring.rewrite() RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['kek', 'index_key', 'data_key'] LOOP
        EXECUTE format('LOCK TABLE indelible_keyring.%I IN ACCESS EXCLUSIVE MODE', name);
        EXECUTE format('CREATE TEMP TABLE kept ON COMMIT DROP AS TABLE indelible_keyring.%I', name);
        EXECUTE format('TRUNCATE indelible_keyring.%I', name);
        EXECUTE format('INSERT INTO indelible_keyring.%I TABLE pg_temp.kept', name);
        DROP TABLE pg_temp.kept;
    END LOOP;
END
$$;

REVOKE ALL ON FUNCTION indelible_keyring.rewrite() FROM PUBLIC;
