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
