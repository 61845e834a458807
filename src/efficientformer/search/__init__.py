"""Which architecture fits the budget: space, supernet, policies, journal, scores, measurements."""
