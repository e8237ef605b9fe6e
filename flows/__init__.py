"""Prefect only: schedules, waits for people, and shows all of it. What is computed is computed in lib and notebooks."""
