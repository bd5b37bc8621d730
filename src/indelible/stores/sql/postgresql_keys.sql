-- What {role} may who seals and opens values: all with the keys of the vault.

GRANT USAGE ON SCHEMA indelible_keyring TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA indelible_keyring TO {role};
GRANT EXECUTE ON FUNCTION indelible_keyring.rewrite TO {role};
