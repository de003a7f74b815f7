"""Transformers: the pilot is the Trainer's scheduler; the Trainer steps it, logs it, saves it and resumes it.

A tiny GPT-2, randomly initialised, learns the characters of Python's own documentation.

python examples/with_transformers.py
"""

import tempfile

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

import trimtab
from trimtab.fit.transformers import PilotCallback


def main(folder: str, steps: int = 60, resume: bool = False) -> tuple[GPT2LMHeadModel, trimtab.Pilot]:
    """Train, from the folder's last checkpoint if asked to; leave one every 20 steps."""
    windows, _ = trimtab.task_named("chars-transformer-v1").data("train")  # [N, 64] numbers of characters
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=70, n_positions=64, n_embd=32, n_layer=2, n_head=2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    pilot = trimtab.attach(optimizer, horizon=60, model=model)
    arguments = TrainingArguments(
        output_dir=folder,
        max_steps=steps,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        logging_steps=10,
        save_steps=20,
        report_to="none",
        use_cpu=True,
        seed=0,
    )
    trainer = Trainer(
        model,
        arguments,
        train_dataset=[{"input_ids": row, "labels": row} for row in windows],
        optimizers=(optimizer, pilot),
        callbacks=[PilotCallback(pilot)],
    )
    trainer.train(resume_from_checkpoint=resume)
    print(pilot.explain())
    return model, pilot


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as here:
        main(here)
