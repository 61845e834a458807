"""The policies that search: greedy, exact, Bayesian, evolutionary, random."""
