-- What {role} may who records: add entries and close segments. It can purge nothing
-- without a custody entry, forget nothing, and change nothing that is closed.

GRANT USAGE ON SCHEMA indelible TO {role};
GRANT SELECT ON ALL TABLES IN SCHEMA indelible TO {role};
GRANT INSERT ON indelible.log, indelible.tail, indelible.tile, indelible.tile_columns,
    indelible.block, indelible.vault, indelible.finding, indelible.segment,
    indelible.document, indelible.rotation TO {role};
GRANT UPDATE (epoch) ON indelible.writer TO {role};
GRANT UPDATE (size, edge, last_leaf, recorded_at, checkpoint) ON indelible.log TO {role};
-- A tail becomes a tile; what a tile is found by becomes a finding.
GRANT DELETE ON indelible.tail, indelible.tile_columns TO {role};
-- Facts are what may change.
GRANT INSERT, UPDATE, DELETE ON indelible.fact TO {role};
GRANT EXECUTE ON FUNCTION indelible.guard, indelible.move, indelible.make_room, indelible.purge,
    indelible.drop_findings TO {role};
