"""Serving: the model server, the prediction log and the shadow scorer that reads it."""
