"""One-pass: hypergradients against each other from random hyperparameters, by the protocol of Clarke et al. 2022.

`trimtab bench one-pass` runs it; `docs/one-pass.md` says what came of it.
"""
