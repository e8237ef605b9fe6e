"""What happens to a model after it went live: drift of its inputs, maturity of its labels."""
