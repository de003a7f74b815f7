"""Lightning Fabric: attach to the raw optimizer before `setup`; `fabric.save` and `fabric.load` take the pilot along.

python examples/with_fabric.py
"""

import tempfile
from pathlib import Path

import torch
from lightning.fabric import Fabric
from lightning.fabric.loggers import CSVLogger
from torch.utils.data import DataLoader, TensorDataset

import trimtab

TASK = trimtab.task_named("digits-cnn-v1")


def main(folder: str, epochs: int = 4, checkpoint: str | None = None) -> trimtab.Pilot:
    """Train, from a checkpoint where one is given; leave one in the folder."""
    fabric = Fabric(accelerator="cpu", precision="bf16-mixed", loggers=CSVLogger(folder))
    model = TASK.build(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    pilot = trimtab.attach(optimizer, horizon=400, model=model)
    model, optimizer = fabric.setup(model, optimizer)
    loader = fabric.setup_dataloaders(DataLoader(TensorDataset(*TASK.data("train")), batch_size=32))

    everything = {"model": model, "optimizer": optimizer, "pilot": pilot}
    done = fabric.load(checkpoint, everything)["epoch"] if checkpoint else 0
    for _ in range(done, epochs):
        for images, labels in loader:
            loss = torch.nn.functional.cross_entropy(model(images), labels)
            fabric.backward(loss)
            fabric.clip_gradients(model, optimizer, max_norm=1.0, error_if_nonfinite=False)  # the guard sees to them
            optimizer.step()
            pilot.step(loss)
            optimizer.zero_grad()
        fabric.log_dict(pilot.metrics(), step=pilot.last_epoch)
    fabric.logger.finalize("success")  # writes the file
    fabric.save(Path(folder, "last.ckpt"), everything | {"epoch": epochs})
    return pilot


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as here:
        print(main(here).explain())
