"""Windows that cover a map, and the mean of what is predicted in them."""

import torch


def window_boxes(size, window, stride):
    """Windows that cover a map from its first row and column on; the last ones are moved back to end with it.

    Args:
        size ((int, int)): height and width of the map.
        window ((int, int)): of a window; a map that is smaller has windows of its own size.
        stride ((int, int)): from one window to the next.

    Returns:
        list[(int, int, int, int)]: y1, x1, y2, x2 of each, row by row.
    """
    (height, tops), (width, lefts) = (_starts(*x) for x in zip(size, window, stride))
    return [(y, x, y + height, x + width) for y in tops for x in lefts]


def _starts(length, window, stride):
    window = min(window, length)
    count = -(-(length - window) // stride) + 1
    return window, [min(i * stride, length - window) for i in range(count)]


def cut(maps, boxes):
    """The parts of N maps in W boxes each.

    Args:
        maps (Tensor): (N, ..., H, W).
        boxes (Tensor): (N, W, 4) int64 on the CPU: y1, x1, y2, x2, all of one size.

    Returns:
        Tensor: (N, W, ..., h, w).
    """
    rows = [torch.stack([x[..., y1:y2, x1:x2] for y1, x1, y2, x2 in of]) for x, of in zip(maps, boxes.tolist())]
    return torch.stack(rows)


def place(parts, boxes, size):
    """The mean over W parts of each of N maps at the places of their boxes; 0 where there is none.

    Args:
        parts (Tensor): (N, W, K, h, w).
        boxes (Tensor): (N, W, 4) int64 on the CPU, in cells of the map.
        size ((int, int)): of the map.

    Returns:
        Tensor: (N, K, *size).
    """
    placed = parts.new_zeros((len(parts), parts.shape[2], *size))
    times = parts.new_zeros((len(parts), 1, *size))
    for n, of in enumerate(boxes.tolist()):
        for w, (y1, x1, y2, x2) in enumerate(of):
            placed[n, :, y1:y2, x1:x2] += parts[n, w]
            times[n, :, y1:y2, x1:x2] += 1
    return placed / times.clamp(min=1)
