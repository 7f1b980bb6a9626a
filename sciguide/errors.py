"""What goes wrong because of what the user gave, as opposed to a fault of the program."""


class InputError(ValueError):
    """A mistake in the data, the configuration or the command line.

    The message is one line that names the variable or key, the file, and the remedy. The command line prints it
    without a traceback and exits with code 2.
    """
