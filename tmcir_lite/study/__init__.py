"""The study: methods, ablations and sweeps with several seeds, and the claims of the paper, tested.

`plan.yaml` says what is run; `python -m tmcir_lite study` runs it; `data/results` holds what it found.
"""
