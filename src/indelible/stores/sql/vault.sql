-- The vault of one closed segment: what is kept of its committed values until it is
-- forgotten. place: of the entry, from the segment's start.

CREATE TABLE vlt.vault (place INTEGER PRIMARY KEY, row BLOB NOT NULL) STRICT;

CREATE TABLE vlt.posting (least_term INTEGER PRIMARY KEY, page BLOB NOT NULL) STRICT;
