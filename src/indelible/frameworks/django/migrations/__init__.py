"""Tables of the adapter."""
