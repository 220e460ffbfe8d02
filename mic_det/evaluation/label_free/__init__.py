"""How good a detector is on images without labels: criteria, their passes, ranking of checkpoints, estimates of AP50.

- ``predictions.py``: what a detector predicts on an image, as arrays; ``passes.py`` computes it in several views.
- ``criteria.py``: small functions on these predictions, and :data:`~.criteria.CRITERIA` with their papers.
- ``measure.py``: all criteria of one detector on a list of images.
- ``ranking.py``: the combination that was fixed beforehand, the choice, and how sure it is.
- ``judging.py``: regret, Spearman's rho and collapsed checkpoints, where labels are there to judge.
"""
