-- One closed segment: 65,536 entries, immutable. Numbers count from the segment's start.
-- Of purged tiles it has root and leaves; they lie within no times, and have no blocks.

CREATE TABLE seg.tile (
    number         INTEGER PRIMARY KEY,
    recorded_least INTEGER NOT NULL, recorded_most INTEGER NOT NULL,
    occurred_least INTEGER NOT NULL, occurred_most INTEGER NOT NULL,
    id_time_least  INTEGER NOT NULL, id_time_most  INTEGER NOT NULL,
    root           BLOB NOT NULL,
    ids            BLOB NOT NULL,       -- fingerprints, u32 each
    traces         BLOB NOT NULL        -- the same, or empty
) STRICT;

CREATE TABLE seg.leaves (number INTEGER PRIMARY KEY, hashes BLOB NOT NULL) STRICT;

CREATE TABLE seg.block (number INTEGER PRIMARY KEY, data BLOB NOT NULL) STRICT;

CREATE TABLE seg.posting (least_term INTEGER PRIMARY KEY, page BLOB NOT NULL) STRICT;
