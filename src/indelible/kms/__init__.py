"""Who keeps the keys of the vault outside of this machine; the contract is `indelible.kek`."""
