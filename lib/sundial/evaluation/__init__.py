"""Figures about a model: metrics, their intervals, gates, and shadow against production."""
