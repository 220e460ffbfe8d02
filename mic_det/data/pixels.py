"""What the pixels of a file are, told by its header: Detectron2 converts them without a word."""

from ..ordinary_files import open_picture

# modes of PIL that become RGB without loss of more than transparency
EIGHT_BITS = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"}


def check_image_pixels(file):
    """
    Raises:
        ValueError: where an image has other pixels than of 8 bits, which would be cut off at 255.
        OSError, SyntaxError: where it cannot be opened; see PIL.
    """
    with open_picture(file) as image:
        if image.mode not in EIGHT_BITS:
            raise ValueError(f"its pixels are not of 8 bits but PIL's {image.mode}: scale them, and save it as 8 bits")


def check_label_pixels(file):
    """
    Raises:
        ValueError: where a label map is not of 8-bit grey pixels: colours would be taken for labels.
        OSError, SyntaxError: where it cannot be opened; see PIL.
    """
    with open_picture(file) as image:
        if image.mode != "L":
            raise ValueError(f"label map {file} is not 8-bit grey but PIL's {image.mode}: a pixel must be its label")
