"""Skorch: a callback attaches the pilot to the net's optimizer and writes its metrics into the history.

python examples/with_skorch.py
"""

import tempfile
from pathlib import Path

import torch
from skorch import NeuralNetClassifier

import trimtab
from trimtab.fit.skorch import PilotCallback

TASK = trimtab.task_named("digits-cnn-v1")


def main(folder: str, epochs: int = 4, resume: bool = False) -> NeuralNetClassifier:
    """Train, from the folder's checkpoint if asked to; leave one there."""
    callback = PilotCallback(lambda optimizer: trimtab.attach(optimizer, horizon=200))
    net = NeuralNetClassifier(
        TASK.build(0),
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.SGD,
        optimizer__momentum=0.9,
        lr=1e-3,
        batch_size=32,
        train_split=None,
        callbacks=[("pilot", callback)],
        verbose=0,
    ).initialize()
    files = {f"f_{part}": str(Path(folder, f"{part}.pt")) for part in ("params", "optimizer", "history")}
    if resume:
        net.load_params(**files)
        callback.on_train_begin(net)  # attaches
        callback.pilot_.load(Path(folder, "pilot.pt"))
    images, labels = TASK.data("train")
    net.partial_fit(images, labels, epochs=epochs - len(net.history))
    net.save_params(**files)
    callback.pilot_.save(Path(folder, "pilot.pt"))
    return net


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as here:
        print(main(here).history[-1]["trimtab/run/lr"])
