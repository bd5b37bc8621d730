-- What {role} may besides who erases and purges: forget values, write tables anew.

GRANT UPDATE ON indelible.tail, indelible.tile_columns TO {role};
GRANT UPDATE (lookups) ON indelible.segment TO {role};
GRANT EXECUTE ON FUNCTION indelible.forget, indelible.drop_lookups, indelible.purge_segment,
    indelible.rewrite TO {role};
