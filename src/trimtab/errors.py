"""The error tree.

::

    TrimtabError
    ├── KnobError        a knob's range, scale or place does not hold        (ValueError)
    ├── SignalError      a signal has the wrong shape, or is missing         (ValueError)
    ├── OrderError       calls came in an order that cannot work             (RuntimeError)
    ├── StateError       a checkpoint does not belong here, or is damaged    (ValueError)
    ├── TaskError        a task, optimizer, rule or contender is unknown     (ValueError)
    ├── DataError        a data set is missing, or its checksum differs      (RuntimeError)
    └── TraceError       a trace cannot be written or read                   (RuntimeError)

Divergence is not in it: a run that goes off the rails is a result, not an exception.
"""


class TrimtabError(Exception):
    """Every error that trimtab raises on purpose."""


class KnobError(TrimtabError, ValueError):
    """A knob's range, scale, value or place does not hold."""


class SignalError(TrimtabError, ValueError):
    """A signal has the wrong shape, or one that a controller needs is missing."""


class OrderError(TrimtabError, RuntimeError):
    """Calls came in an order that cannot work."""


class StateError(TrimtabError, ValueError):
    """A checkpoint does not belong here, or is damaged."""


class TaskError(TrimtabError, ValueError):
    """A task, optimizer, rule or contender is unknown, or asked for what it has not."""


class DataError(TrimtabError, RuntimeError):
    """A data set is missing, or its checksum differs."""


class TraceError(TrimtabError, RuntimeError):
    """A trace cannot be written or read."""
