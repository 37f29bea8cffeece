"""The two ways a command may end badly, told apart by exit code."""


class UserError(Exception):
    """The user's arguments or input are off: one clear line that says what to do, exit code 2."""


class WorkError(Exception):
    """The work itself failed although the input was fine: says why, exit code 1."""
