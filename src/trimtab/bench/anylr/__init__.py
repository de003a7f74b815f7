"""Any-lr: does a controller make up for a learning rate that nobody tuned?

Thirteen initial learning rates over six decades, on tasks that no teacher has seen, against schedules tuned on the same
grid and against tuning-free optimizers. `docs/any-lr.md` states the protocol and what came of it.
"""
