"""trimtab: a light hand on the rudder. A controller turns a PyTorch run's hyperparameters while it trains.

::

    pilot = trimtab.attach(optimizer, horizon=10_000)
    for x, y in loader:
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        pilot.step(loss)
        optimizer.zero_grad()

``import trimtab`` loads torch and numpy alone; everything else is imported where it is used. What a run that is only
steered never needs (the simulator, the tasks, hypergradients) is loaded when it is first asked for.
"""

import typing

from trimtab.attach import attach as attach
from trimtab.attach import default_knobs as default_knobs
from trimtab.controller import Controller as Controller
from trimtab.controllers import Policy as Policy
from trimtab.controllers import controller_named as controller_named
from trimtab.errors import DataError as DataError
from trimtab.errors import KnobError as KnobError
from trimtab.errors import OrderError as OrderError
from trimtab.errors import SignalError as SignalError
from trimtab.errors import StateError as StateError
from trimtab.errors import TaskError as TaskError
from trimtab.errors import TraceError as TraceError
from trimtab.errors import TrimtabError as TrimtabError
from trimtab.features import Features as Features
from trimtab.guard import Guard as Guard
from trimtab.hypergrad import estimator_of as estimator_of
from trimtab.knobs import Knob as Knob
from trimtab.knobs import Panel as Panel
from trimtab.later import later as _later
from trimtab.loss_knob import LossKnob as LossKnob
from trimtab.loss_knob import relaxed_dropout as relaxed_dropout
from trimtab.pilot import Pilot as Pilot
from trimtab.rollout import rollout as rollout
from trimtab.signals import Observation as Observation
from trimtab.signals import Signals as Signals
from trimtab.sites import groups as groups
from trimtab.sites import sites_of as sites_of
from trimtab.task import Batch as Batch
from trimtab.task import Reference as Reference
from trimtab.task import Task as Task
from trimtab.trace import FullTrace as FullTrace
from trimtab.trace import Trace as Trace
from trimtab.trace import read_trace as read_trace

if typing.TYPE_CHECKING:
    from trimtab.plant import Plant as Plant
    from trimtab.tasks import task_named as task_named

__version__ = "0.1.0"

__all__ = [
    "attach",
    "Batch",
    "Controller",
    "controller_named",
    "DataError",
    "default_knobs",
    "estimator_of",
    "Features",
    "FullTrace",
    "groups",
    "Guard",
    "Knob",
    "KnobError",
    "LossKnob",
    "Observation",
    "OrderError",
    "Panel",
    "Pilot",
    "Plant",
    "Policy",
    "read_trace",
    "Reference",
    "relaxed_dropout",
    "rollout",
    "SignalError",
    "Signals",
    "sites_of",
    "StateError",
    "Task",
    "task_named",
    "TaskError",
    "Trace",
    "TraceError",
    "TrimtabError",
]

__getattr__, __dir__ = _later(__name__, {"Plant": "trimtab.plant", "task_named": "trimtab.tasks"})
