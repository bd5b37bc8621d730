-- The head of a trail: the only file that promises rest on. Everything of one
-- group commit is one transaction here.
--
-- key = number of the log << 40 | number of the row within the log, so that rows
-- of one log stand together in the order of the log.

CREATE TABLE log (
    number      INTEGER PRIMARY KEY,
    name        TEXT NOT NULL UNIQUE,   -- user, user~2
    origin      TEXT NOT NULL UNIQUE,
    size        INTEGER NOT NULL,
    edge        BLOB NOT NULL,          -- right edge of the tree, largest subtree first
    last_leaf   BLOB NOT NULL,
    recorded_at INTEGER NOT NULL,       -- microseconds since 1970
    checkpoint  BLOB NOT NULL,          -- signed note over exactly this size
    first       INTEGER NOT NULL DEFAULT 0  -- entries before it were purged
) STRICT;

-- Entries after the last complete tile, a row for each batch. key: index of the first.
CREATE TABLE tail (
    key            INTEGER PRIMARY KEY,
    entries        INTEGER NOT NULL,
    recorded_least INTEGER NOT NULL, recorded_most INTEGER NOT NULL,
    occurred_least INTEGER NOT NULL, occurred_most INTEGER NOT NULL,
    id_time_least  INTEGER NOT NULL, id_time_most  INTEGER NOT NULL,
    columns        BLOB NOT NULL,
    lookups        BLOB NOT NULL,       -- may be forgotten; empty for none
    leaves         BLOB NOT NULL,
    bodies         BLOB NOT NULL        -- separated by line feeds
) STRICT;

-- Complete tiles of 256 entries that are in no closed segment. key: number of the tile.
-- Of a purged one root and leaves are left; it lies within no times, and has no columns.
CREATE TABLE tile (
    key            INTEGER PRIMARY KEY,
    recorded_least INTEGER NOT NULL, recorded_most INTEGER NOT NULL,
    occurred_least INTEGER NOT NULL, occurred_most INTEGER NOT NULL,
    id_time_least  INTEGER NOT NULL, id_time_most  INTEGER NOT NULL,
    root           BLOB NOT NULL,
    columns        BLOB NOT NULL,
    lookups        BLOB NOT NULL,       -- may be forgotten; empty for none
    leaves         BLOB NOT NULL
) STRICT;

-- Their bodies, 64 to a block. key: number of the block.
CREATE TABLE block (
    key  INTEGER PRIMARY KEY,
    data BLOB NOT NULL
) STRICT;

-- Closed segments. key: number of the segment.
CREATE TABLE segment (
    key            INTEGER PRIMARY KEY,
    purged         INTEGER NOT NULL,    -- of how many tiles the file has only the hashes
    recorded_least INTEGER NOT NULL, recorded_most INTEGER NOT NULL,
    occurred_least INTEGER NOT NULL, occurred_most INTEGER NOT NULL,
    id_time_least  INTEGER NOT NULL, id_time_most  INTEGER NOT NULL,
    root           BLOB NOT NULL,
    file_hash      BLOB NOT NULL,       -- SHA-256 of the file, also in the custody stream
    file_size      INTEGER NOT NULL,
    counts         BLOB NOT NULL,
    filter         BLOB NOT NULL,
    lookups        BLOB NOT NULL        -- filter of what its vault file is looked up by
) STRICT;

-- What the vault keeps of entries that are in no closed segment. key: index of the entry.
CREATE TABLE vault (
    key INTEGER PRIMARY KEY,
    row BLOB NOT NULL
) STRICT;

-- Policies and plans, as custody entries name them. digest: SHA-256 of the data.
CREATE TABLE document (
    digest BLOB PRIMARY KEY,
    data   BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- Rotation notes. key: number of the rotation.
CREATE TABLE rotation (
    key  INTEGER PRIMARY KEY,
    note BLOB NOT NULL
) STRICT;

-- What the trail has to remember beside its logs, and may change; no proof rests on it.
CREATE TABLE fact (
    kind  TEXT NOT NULL,
    key   BLOB NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (kind, key)
) STRICT, WITHOUT ROWID;
