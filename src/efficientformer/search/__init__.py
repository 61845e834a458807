"""Which architecture fits the budget: the space, the supernet, the policies, the journal, the book of scores."""
