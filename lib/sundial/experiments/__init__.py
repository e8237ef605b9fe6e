"""Experiments: a release with other parameters or code, beside production; nothing here moves an alias."""
