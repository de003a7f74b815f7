"""Lightning: the pilot is the module's scheduler; Lightning steps it, logs it, saves it and resumes it.

python examples/with_lightning.py
"""

import tempfile
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, TensorDataset

import trimtab
from trimtab.fit.lightning import PilotCallback

TASK = trimtab.task_named("digits-cnn-v1")


class Digits(LightningModule):
    """Reads digits; its scheduler is a pilot."""

    def __init__(self) -> None:
        super().__init__()
        self.model = TASK.build(0)

    def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
        """Give the loss of images and classes."""
        images, labels = batch
        return torch.nn.functional.cross_entropy(self.model(images), labels)

    def configure_optimizers(self) -> dict[str, object]:
        """Attach the pilot where the scheduler was built; Lightning must step it with the optimizer."""
        optimizer = torch.optim.SGD(self.parameters(), lr=1e-3, momentum=0.9)
        self.pilot = trimtab.attach(optimizer, horizon=400, model=self)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.pilot, "interval": "step"}}


def main(folder: str, epochs: int = 4, checkpoint: str | None = None) -> Digits:
    """Train, from a checkpoint where one is given; leave one in the folder."""
    loader = DataLoader(TensorDataset(*TASK.data("train")), batch_size=32)
    trainer = Trainer(
        max_epochs=epochs,
        callbacks=[PilotCallback()],
        logger=CSVLogger(folder),
        log_every_n_steps=10,
        gradient_clip_val=1.0,
        enable_progress_bar=False,
        default_root_dir=folder,
        accelerator="cpu",
    )
    module = Digits()
    trainer.fit(module, loader, ckpt_path=checkpoint)
    trainer.save_checkpoint(Path(folder, "last.ckpt"))
    return module


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as here:
        print(main(here).pilot.explain())
