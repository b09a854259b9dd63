"""Training of a Keras model from data folders. Calling the module calls `polypstream.api.train`."""

from polypstream.callable_module import make_callable

make_callable(__name__)
