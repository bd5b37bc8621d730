-- The logs of a trail. Everything of one group commit is one transaction here.
--
-- key = number of the log << 40 | number of the row within the log, so that rows of one
-- log stand together in the order of the log, and one range of keys is one segment.
-- What may be erased or purged lies in tables of its own for each segment, which can be
-- written anew: a row that is only deleted stays in the file of its table.

CREATE SCHEMA indelible;

-- One row. Whoever writes names the epoch that it began in; who takes over begins another.
CREATE TABLE indelible.writer (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    epoch    integer NOT NULL DEFAULT 1
);

INSERT INTO indelible.writer DEFAULT VALUES;

-- No rows. Readers hold it shared; who writes tables anew waits until none does.
CREATE TABLE indelible.reading ();

CREATE TABLE indelible.log (
    number      bigint PRIMARY KEY,
    name        text NOT NULL UNIQUE,   -- user, user~2
    origin      text NOT NULL UNIQUE,
    size        bigint NOT NULL,
    edge        bytea NOT NULL,         -- right edge of the tree, largest subtree first
    last_leaf   bytea NOT NULL,
    recorded_at bigint NOT NULL,        -- microseconds since 1970
    checkpoint  bytea NOT NULL,         -- signed note over exactly this size
    first       bigint NOT NULL         -- entries before it were purged
) WITH (fillfactor = 50);

-- Entries after the last complete tile, a row for each batch. key: index of the first.
CREATE TABLE indelible.tail (
    key            bigint PRIMARY KEY,
    entries        integer NOT NULL,
    recorded_least bigint NOT NULL, recorded_most bigint NOT NULL,
    occurred_least bigint NOT NULL, occurred_most bigint NOT NULL,
    id_time_least  bigint NOT NULL, id_time_most  bigint NOT NULL,
    columns        bytea NOT NULL,
    lookups        bytea NOT NULL,      -- may be forgotten; empty for none
    leaves         bytea NOT NULL,
    bodies         bytea NOT NULL       -- separated by line feeds
);

-- Complete tiles of 256 entries, for ever. key: number of the tile. A purged one lies
-- within no times.
CREATE TABLE indelible.tile (
    key            bigint PRIMARY KEY,
    recorded_least bigint NOT NULL, recorded_most bigint NOT NULL,
    occurred_least bigint NOT NULL, occurred_most bigint NOT NULL,
    id_time_least  bigint NOT NULL, id_time_most  bigint NOT NULL,
    root           bytea NOT NULL,
    leaves         bytea NOT NULL
);

-- What the entries of complete tiles in no closed segment are found by. A purged tile
-- has none. key: number of the tile.
CREATE TABLE indelible.tile_columns (
    key     bigint PRIMARY KEY,
    columns bytea NOT NULL,
    lookups bytea NOT NULL              -- may be forgotten; empty for none
);

-- Bodies of complete tiles, 64 to a block. key: number of the block.
CREATE TABLE indelible.block (
    key  bigint PRIMARY KEY,
    data bytea NOT NULL
) PARTITION BY RANGE (key);

-- What the vault keeps of entries. key: index of the entry.
CREATE TABLE indelible.vault (
    key bigint PRIMARY KEY,
    row bytea NOT NULL
) PARTITION BY RANGE (key);

-- What the entries of closed segments are found by. key: number of the segment.
--     kind t: pages of postings of terms, place: the least term
--     kind l: the same of lookups, which may be forgotten
--     kind i, r: ids and traces of one tile, place: its number within the segment
-- Only those with the manifest's purged are read.
CREATE TABLE indelible.finding (
    key    bigint NOT NULL,
    purged integer NOT NULL,
    kind   text NOT NULL,
    place  bigint NOT NULL,
    data   bytea NOT NULL,
    PRIMARY KEY (key, purged, kind, place)
) PARTITION BY RANGE (key);

-- Closed segments. key: number of the segment.
CREATE TABLE indelible.segment (
    key            bigint PRIMARY KEY,
    purged         integer NOT NULL,    -- of how many tiles there are only the hashes
    recorded_least bigint NOT NULL, recorded_most bigint NOT NULL,
    occurred_least bigint NOT NULL, occurred_most bigint NOT NULL,
    id_time_least  bigint NOT NULL, id_time_most  bigint NOT NULL,
    root           bytea NOT NULL,
    file_hash      bytea NOT NULL,      -- SHA-256 of all its rows, also in the custody stream
    file_size      bigint NOT NULL,
    counts         bytea NOT NULL,
    filter         bytea NOT NULL,
    lookups        bytea NOT NULL       -- filter of the lookups
);

-- Policies and plans, as custody entries name them. digest: SHA-256 of the data.
CREATE TABLE indelible.document (
    digest bytea PRIMARY KEY,
    data   bytea NOT NULL
);

-- Rotation notes. key: number of the rotation.
CREATE TABLE indelible.rotation (
    key  bigint PRIMARY KEY,
    note bytea NOT NULL
);

-- What the trail has to remember beside its logs, and may change; no proof rests on it.
CREATE TABLE indelible.fact (
    kind  text COLLATE "C" NOT NULL,
    key   bytea NOT NULL,
    value bytea NOT NULL,
    PRIMARY KEY (kind, key)
);

-- Hashes and what is compressed already are not compressed again.
ALTER TABLE indelible.tail ALTER leaves SET STORAGE EXTERNAL;
ALTER TABLE indelible.tile ALTER leaves SET STORAGE EXTERNAL;
ALTER TABLE indelible.tile_columns ALTER columns SET STORAGE EXTERNAL;
ALTER TABLE indelible.block ALTER data SET STORAGE EXTERNAL;
ALTER TABLE indelible.vault ALTER row SET STORAGE EXTERNAL;

-- Keep no samples of the values of a table: the server takes some of each column for its
-- planner, into a table of its own, where they would outlive what is deleted here. All that
-- is looked up is found by its key, for which the planner needs none.
CREATE FUNCTION indelible.sample_nothing(name regclass) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    each text;
BEGIN
    FOR each IN SELECT attname FROM pg_attribute
        WHERE attrelid = name AND attnum > 0 AND NOT attisdropped
    LOOP
        EXECUTE format('ALTER TABLE %s ALTER %I SET STATISTICS 0', name, each);
    END LOOP;
END
$$;

-- Hold the epoch to the end of the transaction; who takes over waits for it.
CREATE FUNCTION indelible.guard(epoch integer) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    now integer;
BEGIN
    PERFORM FROM indelible.writer WHERE writer.epoch = guard.epoch FOR SHARE;
    IF NOT FOUND THEN
        SELECT writer.epoch INTO now FROM indelible.writer;
        RAISE 'found epoch %, expected %: another writer has taken over; open the trail anew',
            now, epoch USING ERRCODE = 'IN001';
    END IF;
END
$$;

-- Move the end of a log, which is where whoever placed entries after it has seen it.
CREATE FUNCTION indelible.move(
    log bigint, before bigint,
    size bigint, edge bytea, last_leaf bytea, recorded_at bigint, checkpoint bytea
) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE indelible.log SET size = move.size, edge = move.edge, last_leaf = move.last_leaf,
        recorded_at = move.recorded_at, checkpoint = move.checkpoint
        WHERE number = move.log AND log.size = move.before;
    IF NOT FOUND THEN
        RAISE 'log %: does not end after % entries any more', log, before
            USING ERRCODE = 'IN001';
    END IF;
END
$$;

REVOKE ALL ON FUNCTION indelible.guard(integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION
    indelible.move(bigint, bigint, bigint, bytea, bytea, bigint, bytea) FROM PUBLIC;

-- Make the tables of one segment, where there are none. It is the owner who makes them,
-- whoever asks for it.
CREATE FUNCTION indelible.make_room(log bigint, segment bigint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    parent text;
    width  bigint;
    child  text;
BEGIN
    FOR parent, width IN VALUES ('block', 1024), ('vault', 65536), ('finding', 1) LOOP
        child := parent || '_' || log || '_' || segment;
        CONTINUE WHEN to_regclass('indelible.' || child) IS NOT NULL;
        -- Attached afterwards: to make a table as a partition would lock all readers out.
        EXECUTE format('CREATE TABLE indelible.%I (LIKE indelible.%I INCLUDING ALL)',
            child, parent);
        EXECUTE format(
            'ALTER TABLE indelible.%I ATTACH PARTITION indelible.%I FOR VALUES FROM (%s) TO (%s)',
            parent, child, (log << 40) + segment * width, (log << 40) + (segment + 1) * width);
        PERFORM indelible.sample_nothing(to_regclass('indelible.' || child));
    END LOOP;
END
$$;

-- Write the tables that hold something of one segment anew, with the rows that they have:
-- what was deleted is then in no file of theirs. No row changes. Waits for all readers.
CREATE FUNCTION indelible.rewrite(log bigint, segment bigint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    name text;
BEGIN
    LOCK TABLE indelible.reading IN ACCESS EXCLUSIVE MODE;
    FOREACH name IN ARRAY ARRAY[
        'block_' || log || '_' || segment,
        'vault_' || log || '_' || segment,
        'finding_' || log || '_' || segment,
        'tail', 'tile_columns'
    ] LOOP
        CONTINUE WHEN to_regclass('indelible.' || name) IS NULL;
        EXECUTE format('LOCK TABLE indelible.%I IN ACCESS EXCLUSIVE MODE', name);
        EXECUTE format('CREATE TEMP TABLE kept ON COMMIT DROP AS TABLE indelible.%I', name);
        EXECUTE format('TRUNCATE indelible.%I', name);
        EXECUTE format('INSERT INTO indelible.%I TABLE pg_temp.kept', name);
        DROP TABLE pg_temp.kept;
    END LOOP;
END
$$;

-- Nobody calls these but whom it was granted to.
REVOKE ALL ON FUNCTION indelible.sample_nothing(regclass) FROM PUBLIC;
REVOKE ALL ON FUNCTION indelible.make_room(bigint, bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION indelible.rewrite(bigint, bigint) FROM PUBLIC;

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

-- What takes something away. Nobody may delete; a role may call what it was granted.
--
-- EXECUTE … USING plans each statement for its values, and so locks the tables of those
-- segments alone; else it would lock those of all, of which there may be thousands.

-- Purges of the transactions that are under way, and what they owe.
CREATE TABLE indelible.purge (
    log     bigint NOT NULL,
    first   bigint NOT NULL,
    custody bigint                      -- size of the custody log before; null where none is
);

-- Let the entries before one be gone, all but their hashes. The transaction must add a
-- custody entry as well, or it cannot be committed.
CREATE FUNCTION indelible.purge(log bigint, first bigint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    start bigint := purge.log << 40;
    open  bigint;                       -- where the open part begins
    before bigint;
BEGIN
    SELECT log.first INTO before FROM indelible.log WHERE number = purge.log;
    UPDATE indelible.log SET first = purge.first
        WHERE number = purge.log AND log.first < purge.first AND purge.first <= size
            AND purge.first % 256 = 0 AND split_part(name, '~', 1) <> 'custody';
    IF NOT FOUND THEN
        RAISE 'log %: cannot be purged before entry %', purge.log, purge.first;
    END IF;
    INSERT INTO indelible.purge
        SELECT purge.log, purge.first,
            (SELECT sum(size) FROM indelible.log WHERE split_part(name, '~', 1) = 'custody');
    EXECUTE 'DELETE FROM indelible.vault WHERE key >= $1 AND key < $2'
        USING start + before, start + purge.first;
    SELECT count(*) * 65536 INTO open FROM indelible.segment
        WHERE key >= start AND key < purge.log + 1 << 40;
    -- What is closed stays as the manifest says, until it says otherwise.
    PERFORM indelible.clear_tiles(
        start + greatest(open, before) / 256, start + purge.first / 256
    );
END
$$;

-- Leave of these tiles nothing but their hashes.
CREATE FUNCTION indelible.clear_tiles(first bigint, last bigint) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    log bigint := clear_tiles.first >> 40 << 40;
BEGIN
    EXECUTE 'DELETE FROM indelible.block WHERE key >= $1 AND key < $2'
        USING log + (clear_tiles.first - log) * 4, log + (clear_tiles.last - log) * 4;
    DELETE FROM indelible.tile_columns
        WHERE key >= clear_tiles.first AND key < clear_tiles.last;
    UPDATE indelible.tile SET
        recorded_least = 9223372036854775807, recorded_most = -9223372036854775808,
        occurred_least = 9223372036854775807, occurred_most = -9223372036854775808,
        id_time_least = 9223372036854775807, id_time_most = -9223372036854775808
        WHERE key >= clear_tiles.first AND key < clear_tiles.last
            AND recorded_least <= recorded_most;
END
$$;

-- Let a closed segment be described anew, of which the log has purged the first tiles.
CREATE FUNCTION indelible.purge_segment(segment bigint, tiles integer) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    start  bigint := segment >> 40 << 40;
    place  bigint := segment - start;
BEGIN
    IF place * 65536 + tiles * 256 > (
        SELECT first FROM indelible.log WHERE number = purge_segment.segment >> 40
    ) THEN
        RAISE 'segment %: % tiles of it were not purged', segment, tiles;
    END IF;
    PERFORM indelible.clear_tiles(start + place * 256, start + place * 256 + tiles);
    EXECUTE 'DELETE FROM indelible.finding WHERE key = $1 AND purged < $2'
        USING segment, tiles;
    DELETE FROM indelible.segment
        WHERE key = purge_segment.segment AND purged < purge_segment.tiles;
END
$$;

CREATE FUNCTION indelible.check_purge() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NEW.custody >= (
        SELECT sum(size) FROM indelible.log WHERE split_part(name, '~', 1) = 'custody'
    ) THEN
        RAISE 'log %: is purged without a custody entry', NEW.log;
    END IF;
    DELETE FROM indelible.purge WHERE log = NEW.log AND first = NEW.first;
    RETURN NULL;
END
$$;

CREATE CONSTRAINT TRIGGER check_purge AFTER INSERT ON indelible.purge
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION indelible.check_purge();

-- Leave in the vault of some entries of one segment these rows; of an empty one, nothing.
CREATE FUNCTION indelible.forget(log bigint, segment bigint, keys bigint[], rows bytea[])
    RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    name text := 'vault_' || log || '_' || segment;
BEGIN
    IF to_regclass('indelible.' || name) IS NULL THEN
        RETURN;
    END IF;
    EXECUTE format(
        'UPDATE indelible.%I AS kept SET row = given.row FROM unnest($1, $2) AS given (key, row)'
        ' WHERE kept.key = given.key AND given.row <> ''''', name) USING keys, rows;
    EXECUTE format(
        'DELETE FROM indelible.%I AS kept USING unnest($1, $2) AS given (key, row)'
        ' WHERE kept.key = given.key AND given.row = ''''', name) USING keys, rows;
END
$$;

-- Drop what was built for a segment that was not registered then.
CREATE FUNCTION indelible.drop_findings(segment bigint, tiles integer) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    EXECUTE 'DELETE FROM indelible.finding WHERE key = $1 AND purged = $2 AND NOT EXISTS ('
        'SELECT FROM indelible.segment AS closed WHERE closed.key = $1 AND closed.purged = $2)'
        USING segment, tiles;
END
$$;

-- Drop what a closed segment is found by off the log, as before it is built anew.
CREATE FUNCTION indelible.drop_lookups(segment bigint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    EXECUTE 'DELETE FROM indelible.finding WHERE key = $1 AND kind = ''l''' USING segment;
END
$$;

REVOKE ALL ON FUNCTION indelible.purge(bigint, bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION indelible.forget(bigint, bigint, bigint[], bytea[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION indelible.clear_tiles(bigint, bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION indelible.purge_segment(bigint, integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION indelible.drop_findings(bigint, integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION indelible.drop_lookups(bigint) FROM PUBLIC;

-- Which migrations lead here.
CREATE TABLE indelible.migration (
    number     integer PRIMARY KEY,
    applied_at timestamptz
);

SELECT indelible.sample_nothing(oid) FROM pg_class
    WHERE relnamespace::regnamespace::text LIKE 'indelible%' AND relkind IN ('r', 'p');
