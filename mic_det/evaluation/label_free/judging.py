"""How well criteria choose, where labels are there to judge: regret, rank correlation, collapsed checkpoints."""

import itertools
import math

import numpy as np

from ...config.roles import LABELS, MASK, SELF_TRAINING

COLLAPSED = 3.0  # AP50 below the start's from which a checkpoint counts as collapsed
CLOSE = 3.0  # largest difference in AP50 of two checkpoints that :func:`bias` compares


def ranks(values):
    """Ranks from 1; equal values share the mean of their ranks."""
    values = np.asarray(values, float)
    return np.array([(values < v).sum() + ((values == v).sum() + 1) / 2 for v in values])


def spearman(first, second):
    """Spearman's rank correlation; NaN where one of the two does not vary, or with less than 3 values."""
    a, b = ranks(first), ranks(second)
    if len(a) < 3 or a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def bias(checkpoints, score, favoured, others):
    """How much a score favours runs that were trained in one way over those that were trained in others.

    Of each start, every checkpoint of such a run is compared with every checkpoint of the other runs, where their AP50
    differs by at most 3.

    Args:
        checkpoints (list[dict]): as for :func:`judge`, with ``training`` of those that are no start.
        score (callable): of a checkpoint; a number.
        favoured, others (sequence of str): values of ``training``.

    Returns:
        float: share of pairs in which the score prefers the former, minus that in which AP50 does (a tie is half a
        pair); in [-1, 1], NaN without pairs.
    """
    found = []
    for start in (c for c in checkpoints if c["start"]):
        own = _of_start(checkpoints, start)
        first, second = ([c for c in own if c.get("training") in ways] for ways in (favoured, others))
        for a, b in itertools.product(first, second):
            if abs(a["AP50"] - b["AP50"]) <= CLOSE:
                found.append(_wins(score(a), score(b)) - _wins(a["AP50"], b["AP50"]))
    return float(np.mean(found)) if found else float("nan")


def _of_start(checkpoints, start):
    """The checkpoints of the runs that began with a start."""
    return [c for c in checkpoints if not c["start"] and c["run"] in start.get("runs", ())]


def _wins(a, b):
    return (a > b) + (a == b) / 2


def judge(checkpoints, score):
    """How well one score would have chosen.

    Args:
        checkpoints (list[dict]): with ``run``, ``step``, ``start`` (bool), ``AP50``; a start's ``runs`` are those that
            began with it.
        score (callable): of a checkpoint, higher = better; NaN = undefined, the worst. Checkpoints of which it is None
            (not measured) are left out.

    Returns:
        dict: ``checkpoints``, their number; a file that is both a start and a run's checkpoint counts once.
        ``rho`` over all checkpoints.
        ``regret`` and ``last_regret``, the mean over runs of the best AP50 minus that of the chosen checkpoint, or of
        the last one. A start is one of its runs' checkpoints. ``runs``, their number; they have at least two.
        ``regret_across``, the mean over starts of the regret of the choice among a start and all its runs.
        ``collapsed``, the number of checkpoints with an AP50 more than 3 below their start's, and ``found``, how many
        of them have a lower score than the start.
        ``mask_bias`` and ``self_bias``, :func:`bias` for the mask consistency over self-training without a mask, and
        for both over labels alone.
    """
    known = [c for c in checkpoints if c.get("AP50") is not None and score(c) is not None]
    value = {id(c): score(c) if math.isfinite(score(c)) else -math.inf for c in known}
    regret = lambda group: max(c["AP50"] for c in group) - max(group, key=lambda c: value[id(c)])["AP50"]  # noqa: E731
    regrets, last, across, collapsed, found = [], [], [], 0, 0
    for run in dict.fromkeys(c["run"] for c in known if not c["start"]):
        own = [c for c in known if c["run"] == run and not c["start"]]
        starts = [c for c in known if c["start"] and run in c.get("runs", ())]
        if len(own + starts) < 2:  # no choice
            continue
        regrets.append(regret(own + starts))
        last.append(max(c["AP50"] for c in own + starts) - max(own, key=lambda c: c["step"])["AP50"])
        for start in starts:
            worse = [c for c in own if c["AP50"] < start["AP50"] - COLLAPSED]
            collapsed += len(worse)
            found += sum(value[id(c)] < value[id(start)] for c in worse)
    for start in (c for c in known if c["start"]):
        across.append(regret([start, *_of_start(known, start)]))
    single = list({c.get("file", id(c)): c for c in known}.values())
    mean = lambda x: float(np.mean(x)) if x else float("nan")  # noqa: E731
    return {
        "rho": spearman([value[id(c)] for c in single], [c["AP50"] for c in single]),
        "regret": mean(regrets), "last_regret": mean(last), "regret_across": mean(across), "runs": len(regrets),
        "checkpoints": len(single), "collapsed": collapsed, "found": found,
        "mask_bias": bias(known, lambda c: value[id(c)], [MASK], [SELF_TRAINING]),
        "self_bias": bias(known, lambda c: value[id(c)], [MASK, SELF_TRAINING], [LABELS]),
    }  # fmt: skip
