"""Where a trail keeps its logs: one module for each outside thing; the contract is `indelible.store`."""
