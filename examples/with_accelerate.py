"""Accelerate: attach to the raw optimizer, prepare all but the pilot; `save_state` and `load_state` take it along.

python examples/with_accelerate.py
"""

import tempfile

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset

import trimtab
from trimtab.fit.accelerate import PilotSteps

TASK = trimtab.task_named("digits-cnn-v1")


def main(folder: str, epochs: int = 4, checkpoint: str | None = None) -> tuple[torch.nn.Module, trimtab.Pilot]:
    """Train, from a checkpoint where one is given; leave one in the folder."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2, log_with="tensorboard", project_dir=folder)
    accelerator.init_trackers("digits")
    model = TASK.build(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    pilot = trimtab.attach(optimizer, horizon=200, model=model)
    steps = PilotSteps(accelerator, pilot)  # takes micro-batches' losses; registers the pilot for checkpoints
    loader = DataLoader(TensorDataset(*TASK.data("train")), batch_size=16)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

    if checkpoint is not None:
        accelerator.load_state(checkpoint)
    while pilot.last_epoch < epochs * -(-len(loader) // 2):  # a pilot counts optimizer steps
        for images, labels in loader:
            with accelerator.accumulate(model):
                loss = torch.nn.functional.cross_entropy(model(images), labels)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                steps.step(loss)
                optimizer.zero_grad()
        accelerator.log(pilot.metrics(), step=pilot.last_epoch)
    accelerator.save_state(f"{folder}/last")
    accelerator.end_training()
    return model, pilot


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as here:
        print(main(here)[1].explain())
