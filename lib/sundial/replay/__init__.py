"""A range of past weeks, released again one by one, each as it would have been then.

A replay needs everything at once: notebooks are executed, candidates registered, requests served and scored in shadow,
decisions written down, labels waited for. No other room may know all of these, and none of them should know that a week
is being replayed. So it is a room of its own, above the others; flows/replay.py only spreads its steps over processes.

It never touches what is real: runs, registry, prediction log and pages of a replay are in ``artifacts/replays/<name>``.
"""
