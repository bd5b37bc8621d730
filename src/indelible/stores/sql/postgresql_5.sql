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
