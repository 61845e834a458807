"""How accurate a network is: metrics, protocols, whatever a person can name scored on the same pictures."""
