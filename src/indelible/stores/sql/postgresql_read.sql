-- What {role} may who only reads the logs: everything but the keys of the vault.

GRANT USAGE ON SCHEMA indelible TO {role};
GRANT SELECT ON ALL TABLES IN SCHEMA indelible TO {role};
