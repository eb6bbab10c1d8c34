"""Independent answers to compare with: slow, in float64, by sorting or by a convex solver."""

import numpy as np


def shrink_threshold(size, room, eps):
    """The t with sum(clip(size - t, 0, room)) = eps, by walking the sorted breakpoints."""

    def mass(t):
        return np.clip(size - t, 0, room).sum()

    if mass(0.0) <= eps:
        return 0.0
    points = np.unique(np.concatenate([[0.0], size, size - np.where(np.isinf(room), size, room)]))
    points = points[points >= 0]
    masses = np.array([mass(t) for t in points])
    i = int(np.searchsorted(-masses, -eps, side="right")) - 1
    if masses[i] == eps or i + 1 == len(points):
        return points[i]
    slope = (masses[i + 1] - masses[i]) / (points[i + 1] - points[i])
    return points[i] + (eps - masses[i]) / slope


def nearest_l1(d, eps, x=None):
    """Nearest point of the l_1 ball (∩ box around x) to one vector."""
    room = np.full_like(d, np.inf) if x is None else np.where(d > 0, 1 - x, x)
    return np.sign(d) * np.clip(np.abs(d) - shrink_threshold(np.abs(d), room, eps), 0, room)


def nearest_l2(d, eps, x):
    """Nearest point of the l_2 ball ∩ box to one vector, by 200 halvings."""
    if np.linalg.norm(np.clip(d, -x, 1 - x)) <= eps:
        return np.clip(d, -x, 1 - x)
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        if np.linalg.norm(np.clip(middle * d, -x, 1 - x)) > eps:
            high = middle
        else:
            low = middle
    return np.clip(low * d, -x, 1 - x)


def best_linear(kind, w, x, eps):
    """The greatest ⟨w, z⟩ over ball ∩ box for one vector; kind is the class name of the ball."""
    room = np.where(w > 0, 1 - x, x)
    size = np.abs(w)
    if kind == "Linf":
        return float((size * np.minimum(room, eps)).sum())
    if kind == "L0":
        return float(np.sort(size * room)[::-1][: int(eps)].sum())
    if kind == "L1":
        order = np.argsort(-size)
        before = np.cumsum(room[order]) - room[order]
        return float((size[order] * np.clip(eps - before, 0, room[order])).sum())
    if np.linalg.norm(np.where(size > 0, room, 0)) <= eps:
        return float((size * room).sum())
    low, high = 0.0, 1.0
    while np.linalg.norm(np.minimum(high * size, room)) < eps:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if np.linalg.norm(np.minimum(middle * size, room)) > eps:
            high = middle
        else:
            low = middle
    return float((size * np.minimum(low * size, room)).sum())


def nearest_by_cvxpy(kind, d, eps, x=None):
    """Nearest point of a ball (∩ box around x) to one vector, by a general convex solver."""
    import cvxpy

    q = cvxpy.Variable(len(d))
    norm = {"Linf": "inf", "L2": 2, "L1": 1}[kind]
    rules = [cvxpy.norm(q, norm) <= eps]
    if x is not None:
        rules += [x + q >= 0, x + q <= 1]
    problem = cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(q - d)), rules)
    tight = dict.fromkeys(["tol_gap_abs", "tol_gap_rel", "tol_feas"], 1e-10)
    problem.solve(solver=cvxpy.CLARABEL, **tight)
    return q.value
