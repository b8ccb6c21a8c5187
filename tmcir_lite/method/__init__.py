"""The paper, and nothing else. Read in this order:

- `losses`: the contrastive loss of both stages.
- `iacma`: stage 1, pseudo-target images and texts.
- `atf`: the fusion, equation by equation.
- `model`: stage 2, a query composed by a fusion, towards the real target.
- `training`: the loop, and `checkpoint`, what it leaves on disk.
- `encoders`: CLIP's outputs for images and texts, pooled and as tokens; `cached`: the same where it is not trained.
"""
