"""Rows of a merged batch: the images of one kind, and their features."""

from detectron2.structures import ImageList


def image_rows(batch, start, end):
    """Rows of an ImageList or of a dict of features, as views."""
    if isinstance(batch, ImageList):
        return ImageList(batch.tensor[start:end], batch.image_sizes[start:end])
    return {k: v[start:end] for k, v in batch.items()}


def row_groups(num, cuts):
    """(start, end) of the groups that rows 0 .. ``num`` fall into at ascending ``cuts``; none is empty."""
    edges = [0, *cuts, num]
    return [(a, b) for a, b in zip(edges, edges[1:]) if a < b]


class RowViews:
    """Rows of a batch and of the features of some of its rows, split once.

    The gradients of the pieces of one ``split`` are put together in one go, while each slice of a tensor has a
    gradient of the whole tensor's size, mostly zeros, which are then added up.
    """

    def __init__(self, images, features, edges):
        """
        Args:
            images (ImageList): all N images.
            features (dict[str, Tensor]): of rows ``min(edges)`` to ``max(edges)`` of them.
            edges (sequence of int): between the rows that :meth:`rows` will be asked for.
        """
        self.images, self.features = images, features
        self.first, last = edges[0], edges[-1]
        inner = [x - self.first for x in edges[1:-1] if self.first < x < last]
        self.pieces = {span: i for i, span in enumerate(row_groups(last - self.first, inner))}
        sizes = [b - a for a, b in self.pieces]
        self.split = {k: v.split(sizes) for k, v in features.items()} if len(sizes) > 1 else None

    def rows(self, start, end):
        """ImageList and features of rows ``start`` to ``end`` of the batch."""
        span = (start - self.first, end - self.first)
        if self.split is not None and span in self.pieces:
            features = {k: v[self.pieces[span]] for k, v in self.split.items()}
        else:
            features = image_rows(self.features, *span)
        return image_rows(self.images, start, end), features
