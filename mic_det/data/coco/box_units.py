"""Boxes of another convention than COCO's (x, y, width, height) in pixels, found by most of them."""

FEWEST = 3  # boxes; fewer say nothing of a file
MOST = 0.95  # share of boxes that must fit the other convention
OUTSIDE = 0.1  # share of boxes that must reach out of their image if they are widths and heights


def box_convention_problem(boxes):
    """What the boxes of a file seem to be instead of COCO's; "" where they may be COCO's.

    Args:
        boxes (list[(entry, bbox, width, height)]): name of the entry, its four numbers and its image's size.
    """
    if not boxes:
        return ""
    between = [b for b in boxes if 0 <= min(b[1]) and max(b[1]) <= 1 and min(b[2:]) > 2]
    if len(between) > MOST * len(boxes):
        return (
            f"has {len(between)} of {len(boxes)} boxes between 0 and 1, such as {between[0][0]}: {between[0][1]}. They "
            "seem to be shares of the image's size: COCO's boxes are (x, y, width, height) in pixels, so multiply them."
        )
    if len(boxes) < FEWEST:
        return ""
    small = [b for b in boxes if b[1][0] + b[1][2] <= 100.5 and b[1][1] + b[1][3] <= 100.5 and min(b[2:]) >= 300]
    if len(small) == len(boxes) >= 20:
        return (
            f"has all {len(boxes)} boxes in the 100 x 100 pixels at the upper left, such as {small[0][0]}: "
            f"{small[0][1]} in an image of {small[0][2]} x {small[0][3]}. They seem to be per cent of the image's "
            "size: COCO's boxes are (x, y, width, height) in pixels."
        )
    corners = [b for b in boxes if _are_corners(*b[1:])]
    outside = [b for b in corners if b[1][0] + b[1][2] > 1.02 * b[2] + 1 or b[1][1] + b[1][3] > 1.02 * b[3] + 1]
    if len(corners) >= MOST * len(boxes) and len(outside) > OUTSIDE * len(boxes):
        return (
            f"has {len(outside)} of {len(boxes)} boxes that reach out of their image, such as {outside[0][0]}: "
            f"{outside[0][1]} in {outside[0][2]} x {outside[0][3]} pixels. They seem to be corners (x0, y0, x1, y1): "
            "COCO's boxes are (x, y, width, height), so subtract the first corner from the second."
        )
    return ""


def _are_corners(box, width, height):
    """Whether the numbers can be two corners inside the image."""
    x0, y0, x1, y1 = box
    return x0 < x1 <= width + 1 and y0 < y1 <= height + 1
