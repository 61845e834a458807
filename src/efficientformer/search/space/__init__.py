"""What can be searched, where something is chosen in it, and what each choice costs in latency."""
