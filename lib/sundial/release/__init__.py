"""From a finished run to a model in production: servable folders, the registry, and a person's decision."""
