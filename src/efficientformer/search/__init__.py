"""Which architecture fits the budget: space, supernet, importances, actions, journal, slimming."""
