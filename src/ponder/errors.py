"""Every error that ponder raises on purpose, and the exit code the command line ends with.

* PonderError
  x UsageError (2)             what was asked for makes no sense
    + SpecError                  a spec string: unknown name, unknown argument, wrong type
    + BudgetError                a budget that cannot buy anything
    + DataError                  a problem file, an imported bank, a task field
    + StudyError                 a study file or folder
    + OracleError                a grader used inside a search without leave
    + UnidentifiedError          data that cannot tell a law's parameters
  x SetupError (3)             this machine lacks something
    + MissingExtraError          an optional dependency
  x EndpointError (4)          a server that samples for us
    + UnreachableError           nobody listens, or nobody answers
    + RefusedError               key, model name or request refused for good
    + CapabilityError            the engine cannot do what a strategy needs
  x PartialError (5)           some work failed; the rest is kept and can be resumed
  x StoreError (6)             the study folder
    + LockedError                another process holds it
    + CorruptError               a row does not match its checksum

`BudgetExhausted` stands apart: running out of budget is not an error (the last proposal is the answer).
A message names the thing, the value, the bound and the way out.
"""

from __future__ import annotations

from typing import ClassVar


class PonderError(Exception):
    """Base of the tree above. `exit_code` is what the command line returns."""

    exit_code: ClassVar[int] = 1


class UsageError(PonderError, ValueError):
    """What was asked for makes no sense; nothing was spent."""

    exit_code = 2


class SpecError(UsageError):
    """A spec string does not parse, or names something that does not exist."""


class BudgetError(UsageError):
    """A budget that cannot buy anything."""


class DataError(UsageError):
    """A file of problems or samples is not what it should be; the message has file and line."""


class StudyError(UsageError):
    """A study file or folder does not describe one study."""


class OracleError(UsageError):
    """A strategy asked for the reference without leave."""


class UnidentifiedError(UsageError):
    """The data cannot tell the parameters of a law: any number would do, or no finite one."""


class SetupError(PonderError):
    """This machine lacks something the work needs."""

    exit_code = 3


class MissingExtraError(SetupError):
    """An optional dependency is not installed; the message has the install command."""

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(f"{module} is not installed; it comes with the extra {extra!r}: pip install 'ponder-ttc[{extra}]'")
        self.module, self.extra = module, extra

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str]]:
        return type(self), (self.module, self.extra)  # so that it travels between processes


class EndpointError(PonderError):
    """A server that samples for us failed for good."""

    exit_code = 4


class UnreachableError(EndpointError):
    """Nobody listens at the address, or nobody answers in time."""


class RefusedError(EndpointError):
    """The server refused key, model name or request, and would refuse it again."""


class CapabilityError(EndpointError):
    """The engine cannot do what a strategy needs; raised before anything is spent."""


class PartialError(PonderError):
    """Some of the work failed; what was paid for is kept, and the message has the command to go on."""

    exit_code = 5


class StoreError(PonderError):
    """The study folder cannot be used."""

    exit_code = 6


class LockedError(StoreError):
    """Another process holds the study folder."""


class CorruptError(StoreError):
    """A stored row does not match its checksum, or the file is of another version."""


class BudgetExhausted(Exception):
    """Raised by `Run` before work that a spent budget cannot pay for; strategies let it pass."""
