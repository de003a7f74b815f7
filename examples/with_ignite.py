"""Ignite: a handler steps the pilot after each iteration; Ignite's own Checkpoint saves it beside the optimizer.

python examples/with_ignite.py
"""

import tempfile

import torch
from ignite.engine import Events, create_supervised_trainer
from ignite.handlers import Checkpoint, DiskSaver, TensorboardLogger
from torch.utils.data import DataLoader, TensorDataset

import trimtab
from trimtab.fit.ignite import PilotHandler

TASK = trimtab.task_named("digits-cnn-v1")


def main(folder: str, epochs: int = 4, resume: bool = False) -> tuple[torch.nn.Module, trimtab.Pilot]:
    """Train, from the folder's checkpoint if asked to; leave one there after each epoch."""
    model = TASK.build(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    pilot = trimtab.attach(optimizer, horizon=200, model=model)
    trainer = create_supervised_trainer(
        model, optimizer, torch.nn.functional.cross_entropy, gradient_accumulation_steps=2
    )
    trainer.add_event_handler(Events.ITERATION_COMPLETED, PilotHandler(pilot))
    board = TensorboardLogger(log_dir=folder)
    metrics = {"tag": "pilot", "output_transform": lambda output: pilot.metrics()}
    board.attach_output_handler(trainer, Events.EPOCH_COMPLETED, **metrics)
    everything = {"trainer": trainer, "model": model, "optimizer": optimizer, "pilot": pilot}
    disk = DiskSaver(folder, require_empty=False)
    saving = Checkpoint(everything, disk, n_saved=1, filename_pattern="last.pt")
    trainer.add_event_handler(Events.EPOCH_COMPLETED, saving)
    if resume:
        Checkpoint.load_objects(everything, torch.load(f"{folder}/last.pt", weights_only=True))
    with board:
        trainer.run(DataLoader(TensorDataset(*TASK.data("train")), batch_size=16), max_epochs=epochs)
    return model, pilot


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as here:
        print(main(here)[1].explain())
