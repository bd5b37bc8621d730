"""The client: reads from a collector, and verifies what it is answered."""
