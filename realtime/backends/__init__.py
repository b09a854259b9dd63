"""The runtimes that execute a model, one module each, and the choice among them."""
