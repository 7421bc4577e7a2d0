"""Errors a user can act on."""


class MedtuneError(Exception):
    """Stops a verb with a message that says what is wrong, where, and what to do.

    Args:
        where: The file, case or configuration key the error is about.
        found: What was found there, and what was expected.
        remedy: What the user can do about it.
    """

    def __init__(self, where: object, found: str, remedy: str) -> None:
        self.where, self.found, self.remedy = str(where), found, remedy
        super().__init__(f"{where}: {found}\n  -> {remedy}")


class ConfigError(MedtuneError):
    """The configuration cannot be used."""


class DataError(MedtuneError):
    """A source file or case cannot be used."""


class ModelError(MedtuneError):
    """A model folder cannot be used."""


class VisionError(MedtuneError):
    """A model did not receive the pixels it should have received."""
