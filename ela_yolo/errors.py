"""The errors that this package raises: all are an ``ELAError``."""


class ELAError(Exception):
    """Any error of this package; the message is one line and names the remedy."""


class RegistrationError(ELAError):
    """The installed Ultralytics is not as expected, so nothing in it was changed."""


class RowError(ELAError):
    """An ELA row of a model YAML is wrong; the message holds the row and what is allowed.

    Not a ValueError: Ultralytics' parser suppresses those while it resolves a row's args.
    """


class InputError(ELAError):
    """A file or a value that is given is not there, or not what it should be."""


class ModelYamlError(ELAError):
    """A file is no model YAML, or one whose rows cannot be edited; the message holds the line."""


class InsertionError(ELAError):
    """ELA rows cannot go where they are asked for, or the result cannot be written."""


class CheckpointError(ELAError):
    """A file is no checkpoint of a model that ELA can be put into."""


class DatasetError(ELAError):
    """A data set that comes along cannot be written where it should go."""


class ExportError(ELAError):
    """An exported file cannot be run or compared."""


class NoFactorError(InputError):
    """A block does not multiply its input by factors, so its attention cannot be held constant."""


class UsageError(ELAError):
    """A command line is wrong; the exit status is 2."""


class CompareError(ELAError):
    """Runs of a comparison failed, or cannot be run as asked for."""
