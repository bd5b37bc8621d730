"""Where a log goes: what follows it, or takes a copy of it."""
