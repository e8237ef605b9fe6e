"""Flights out of New York in 2013: what the team that owns this model writes."""
