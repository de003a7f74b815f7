"""Fit: a pilot inside the trainers that people use; one file a framework, imported on demand.

A pilot is an ``LRScheduler``: it goes where the framework's own scheduler went. What is here tells it the loss, which
frameworks keep to themselves, and tells the framework's loggers what it did.

- ``trimtab.fit.lightning``: ``Trainer(callbacks=[PilotCallback()])``
- ``trimtab.fit.transformers``: ``Trainer(optimizers=(optimizer, pilot), callbacks=[PilotCallback(pilot)])``
- ``trimtab.fit.accelerate``: ``PilotSteps(accelerator, pilot).step(loss)``
- ``trimtab.fit.skorch``: ``NeuralNet(callbacks=[PilotCallback(make_pilot)])``
- ``trimtab.fit.ignite``: ``trainer.add_event_handler(Events.ITERATION_COMPLETED, PilotHandler(pilot))``

Lightning Fabric and plain loops need nothing of this.
"""
