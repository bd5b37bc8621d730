"""Where a trail keeps its logs, one module for each kind; the contract is `indelible.store`."""
