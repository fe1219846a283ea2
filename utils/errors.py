"""The error of a user, as opposed to a bug."""


class UserError(Exception):
    """Bad input. Its text is one sentence that names the thing and the remedy.

    Entry scripts print the sentence and leave with a non-zero exit code (``utils.cli.run``); a bug
    keeps its traceback.
    """
