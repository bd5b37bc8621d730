-- What the trail has to remember beside its logs, and may change; no proof rests on it.
CREATE TABLE indelible.fact (
    kind  text COLLATE "C" NOT NULL,
    key   bytea NOT NULL,
    value bytea NOT NULL,
    PRIMARY KEY (kind, key)
);

SELECT indelible.sample_nothing(oid) FROM pg_class
    WHERE relnamespace::regnamespace::text LIKE 'indelible%' AND relkind IN ('r', 'p');
