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
