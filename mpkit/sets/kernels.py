"""What a GPU does with a row of a batch: a program is a row, of whose BLOCK entries ``size`` exist.

The language is Triton's, which is imported here; ``fused`` says when, and has the plain functions.
ROWS is 2 where rows have numbers of their own, 1 where a tensor holds one for all, 0 for a plain
number; BOX is true where there are walls.
"""

from __future__ import annotations

import triton
import triton.language as tl

TINY = tl.constexpr(1.1754944e-38)  # the smallest normal number
HALF = tl.constexpr(1.0 + 16 * 2.0**-23)  # half of the allowance with which a norm is compared
QUARTER = tl.constexpr(1.0 + 8 * 2.0**-23)


@triton.jit
def row_of(size, BLOCK: tl.constexpr):
    """Which row this is, which entries exist, and where they lie."""
    row, at = tl.program_id(0), tl.arange(0, BLOCK)
    return row, at < size, row.to(tl.int64) * size + at


@triton.jit
def number_of(value, row, ROWS: tl.constexpr):
    """The row's own number of a tensor, its only number, or the number itself."""
    if ROWS == 2:
        found = tl.load(value + row)
    elif ROWS == 1:
        found = tl.load(value)
    else:
        found = value
    return found


@triton.jit
def sign_of(value):
    """-1, 0 or 1."""
    return tl.where(value > 0, 1.0, tl.where(value < 0, -1.0, 0.0))


@triton.jit
def soft(length, level, room):
    """How much of each entry is left above a level, but no more than its room."""
    return tl.minimum(tl.maximum(length - level, 0.0), room)


@triton.jit
def linf_nearest(d, x, eps, out, size, BOX: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Clip to the ball, then to the box."""
    row, there, place = row_of(size, BLOCK)
    radius = number_of(eps, row, ROWS)
    near = tl.load(d + place, mask=there, other=0.0)
    near = tl.minimum(tl.maximum(near, -radius), radius)
    if BOX:
        image = tl.load(x + place, mask=there, other=0.0)
        near = tl.minimum(tl.maximum(near, -image), 1.0 - image)
    tl.store(out + place, near, mask=there)


@triton.jit
def l1_nearest(d, x, eps, out, size, BOX: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Shrink all entries by one level, found by halving and Newton steps kept in its bracket."""
    row, there, place = row_of(size, BLOCK)
    radius = number_of(eps, row, ROWS)
    given = tl.load(d + place, mask=there, other=0.0)
    length = tl.abs(given)
    clipped, room = given, length
    if BOX:
        image = tl.load(x + place, mask=there, other=0.0)
        clipped = tl.minimum(tl.maximum(given, -image), 1.0 - image)
        room = tl.where(given > 0, 1.0 - image, image)
    inside = tl.sum(tl.abs(clipped), 0) <= radius * HALF
    high = tl.max(length, 0)
    low = high * 0.0
    for _ in range(16):
        level = (low + high) * 0.5
        above = tl.sum(soft(length, level, room), 0) > radius
        low = tl.where(above, level, low)
        high = tl.where(above, high, level)
    level = low
    for _ in range(8):
        excess = tl.sum(soft(length, level, room), 0) - radius
        moving = (length > level) & (length - level <= room)
        free = tl.sum(tl.where(moving, 1.0, 0.0), 0)
        low = tl.where(excess > 0, level, low)
        high = tl.where(excess > 0, high, level)
        ahead = level + excess / tl.maximum(free, 1.0)
        good = (ahead >= low) & (ahead <= high) & (free > 0)
        level = tl.where(good, ahead, (low + high) * 0.5)
    kept = soft(length, level, room)
    norm = tl.maximum(tl.sum(kept, 0), TINY)
    kept = kept * tl.where(norm <= radius * QUARTER, 1.0, radius / norm)
    tl.store(out + place, tl.where(inside, clipped, tl.where(given < 0, -kept, kept)), mask=there)


@triton.jit
def l2_nearest(d, x, eps, out, size, BOX: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Scale and clip; the square of the scale is bracketed by halving, then reached from below."""
    row, there, place = row_of(size, BLOCK)
    radius = number_of(eps, row, ROWS)
    given = tl.load(d + place, mask=there, other=0.0)
    largest = tl.maximum(tl.max(tl.abs(given), 0), TINY)
    way = given / largest
    goal, squared = radius * radius, way * way
    low = goal / tl.maximum(tl.sum(squared, 0), TINY)
    clipped = given
    if BOX:
        image = tl.load(x + place, mask=there, other=0.0)
        clipped = tl.minimum(tl.maximum(given, -image), 1.0 - image)
        wall = tl.where(given > 0, 1.0 - image, image)
        wall = wall * wall
        high = tl.maximum(largest * largest, low)
        for _ in range(14):
            level = tl.sqrt(low) * tl.sqrt(high)
            above = tl.sum(tl.minimum(level * squared, wall), 0) > goal
            low = tl.where(above, low, level)
            high = tl.where(above, level, high)
        for _ in range(8):
            missing = goal - tl.sum(tl.minimum(low * squared, wall), 0)
            free = tl.sum(tl.where(low * squared < wall, squared, 0.0), 0)
            ahead = low + missing / tl.maximum(free, TINY)
            good = (missing > 0) & (free > 0) & (ahead <= high)
            low = tl.where(good, ahead, low)
    short = tl.sqrt(low) * way
    if BOX:
        short = tl.minimum(tl.maximum(short, -image), 1.0 - image)
    share = clipped / largest
    inside = tl.sqrt(tl.sum(share * share, 0)) * largest <= radius * HALF
    norm = tl.maximum(tl.sqrt(tl.sum(short * short, 0)), TINY)
    short = short * tl.where(norm <= radius * QUARTER, 1.0, radius / norm)
    tl.store(out + place, tl.where(inside, clipped, short), mask=there)


@triton.jit
def l2_length(d, out, size, BLOCK: tl.constexpr):
    """The Euclidean norm, free of overflow."""
    row, there, place = row_of(size, BLOCK)
    given = tl.load(d + place, mask=there, other=0.0)
    largest = tl.maximum(tl.max(tl.abs(given), 0), TINY)
    given = given / largest
    tl.store(out + row, tl.sqrt(tl.sum(given * given, 0)) * largest)


@triton.jit
def l2_direction(d, out, size, BLOCK: tl.constexpr):
    """Over its Euclidean norm; zero stays zero."""
    _, there, place = row_of(size, BLOCK)
    given = tl.load(d + place, mask=there, other=0.0)
    given = given / tl.maximum(tl.max(tl.abs(given), 0), TINY)
    norm = tl.maximum(tl.sqrt(tl.sum(given * given, 0)), TINY)
    tl.store(out + place, given / norm, mask=there)


@triton.jit
def movable(x, g, out, size, BLOCK: tl.constexpr):
    """Zero where the gradient only pushes a pixel out of the box."""
    _, there, place = row_of(size, BLOCK)
    image = tl.load(x + place, mask=there, other=0.0)
    given = tl.load(g + place, mask=there, other=0.0)
    room = tl.where(given > 0, 1.0 - image, image)
    tl.store(out + place, tl.where(room > 0, given, 0.0), mask=there)


@triton.jit
def l1_filling(x, g, length, out, size, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """The largest entries go to the box as far as the length lasts; the level is halved for."""
    row, there, place = row_of(size, BLOCK)
    budget = number_of(length, row, ROWS)
    image = tl.load(x + place, mask=there, other=0.0)
    given = tl.load(g + place, mask=there, other=0.0)
    steep, room = tl.abs(given), tl.where(given > 0, 1.0 - image, image)
    width = tl.max(steep, 0)
    top, low = width, width * 0.0
    for _ in range(24):
        width = width * 0.5
        cost = tl.sum(tl.where(steep > low + width, room, 0.0), 0)
        low = tl.where(cost > budget, low + width, low)
    high = tl.minimum(low + width, top)
    sure = tl.sum(tl.where(steep > high, room, 0.0), 0)
    more = tl.sum(tl.where(steep > low, room, 0.0), 0) - sure
    share = tl.minimum(tl.maximum((budget - sure) / tl.maximum(more, TINY), 0.0), 1.0)
    part = tl.where(steep > high, 1.0, tl.where(steep > low, share, 0.0))
    tl.store(out + place, part * room * sign_of(given), mask=there)


@triton.jit
def largest_signs(g, moving, out, size, BLOCK: tl.constexpr):
    """Signs of about as many of the largest entries as the row's share says, over their number."""
    row, there, place = row_of(size, BLOCK)
    given = tl.load(g + place, mask=there, other=0.0)
    steep = tl.where(there, tl.abs(given), -1.0)
    wanted = tl.maximum(tl.load(moving + row) * size, 1.0)
    width = tl.max(steep, 0)
    top, low = width, width * 0.0
    for _ in range(16):
        width = width * 0.5
        many = tl.sum(tl.where(steep >= low + width, 1.0, 0.0), 0) > wanted
        low = tl.where(many, low + width, low)
    high = tl.minimum(low + width, top)
    signs = tl.where(steep >= high, sign_of(given), 0.0)
    tl.store(out + place, signs / tl.maximum(tl.sum(tl.abs(signs), 0), 1.0), mask=there)


@triton.jit
def sparse_step(x, g, length, out, count, size, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Equal shares for the ``count`` largest entries that can move; see attacks.pgd.

    The smallest of them is found bit by bit, since positive numbers are in the order of their bits.
    """
    row, there, place = row_of(size, BLOCK)
    image = tl.load(x + place, mask=there, other=0.0)
    given = tl.load(g + place, mask=there, other=0.0)
    room = tl.where(given > 0, 1.0 - image, image)
    free = tl.where(there & (room > 0), given, 0.0)
    bits = tl.where(there, tl.abs(free), -1.0).to(tl.int32, bitcast=True)
    least = tl.max(bits, 0) * 0
    for i in range(31):
        guess = least | (1 << (30 - i))
        enough = tl.sum((bits >= guess).to(tl.int32), 0) >= count
        least = tl.where(enough, guess, least)
    signs = tl.where(bits >= least, sign_of(free), 0.0)
    each = number_of(length, row, ROWS) / tl.maximum(tl.sum(tl.abs(signs), 0), 1.0)
    steep = tl.abs(given)
    last = tl.min(tl.where(signs != 0, steep, float("inf")), 0)
    against = (free == 0) & (steep >= last)
    each = tl.where(against, sign_of(given), signs) * each
    tl.store(out + place, each, mask=there)


@triton.jit
def better(
    a, a_score, a_reached, b, b_score, b_reached, z, score, reached, size, BLOCK: tl.constexpr
):
    """The second point where it reaches the goal first, or else is not the lower one."""
    row, there, place = row_of(size, BLOCK)
    old, new = tl.load(a_score + row), tl.load(b_score + row)
    done, now = tl.load(a_reached + row).to(tl.int32), tl.load(b_reached + row).to(tl.int32)
    wins = tl.where(done == now, tl.where(new <= old, 0, 1), now) > 0
    tl.store(score + row, tl.where(wins, new, old))
    tl.store(reached + row, tl.where(wins, now, done) > 0)
    old_z = tl.load(a + place, mask=there, other=0.0)
    new_z = tl.load(b + place, mask=there, other=0.0)
    tl.store(z + place, tl.where(wins, new_z, old_z), mask=there)


@triton.jit
def price_of(length, norm, eps, share, BALL: tl.constexpr):
    """What a little more of a budget would bring nearer, of which a point is held to a share."""
    if BALL == 1:
        rest = tl.maximum(norm - eps * share, 0.0)
    else:
        rest = tl.sum(tl.maximum(length - eps * share, 0.0), 0)
    return eps * rest


@triton.jit
def pair_share(
    p,
    q,
    eps_a,
    eps_b,
    out,
    wide,
    size,
    A: tl.constexpr,
    B: tl.constexpr,
    ROWS_A: tl.constexpr,
    ROWS_B: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The share of the first budget at which both are worth the same.

    Balls are 0 for l_1, 1 for l_2, 2 for l_inf. Rows of p have ``wide`` entries, of WIDE.
    """
    row, there, place = row_of(size, BLOCK)
    at = tl.arange(0, WIDE)
    first = tl.abs(tl.load(p + row.to(tl.int64) * wide + at, mask=at < wide, other=0.0))
    second = tl.abs(tl.load(q + place, mask=there, other=0.0))
    one, other = number_of(eps_a, row, ROWS_A), number_of(eps_b, row, ROWS_B)
    norm_p, norm_q = tl.sqrt(tl.sum(first * first, 0)), tl.sqrt(tl.sum(second * second, 0))
    low = norm_p * 0.0
    high = low + 1.0
    for _ in range(30):
        w = (low + high) * 0.5
        price = price_of(second, norm_q, other, 1.0 - w, B)
        if A == 0:
            budget = tl.maximum(one, 1e-19)
            more = tl.sum(tl.maximum(first - price / budget, 0.0), 0) / budget > w
        else:
            more = price_of(first, norm_p, one, w, A) > price
        low = tl.where(more, w, low)
        high = tl.where(more, high, w)
    tl.store(out + row, low)
