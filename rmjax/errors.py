"""The one exception for mistakes that a user can mend."""


class UserError(Exception):
    """A user's mistake: bad data, a wrong path, an impossible option.

    The message is one line that names the file, line, field, value and the fix. The launcher prints it without a
    traceback and exits with code 2.
    """
