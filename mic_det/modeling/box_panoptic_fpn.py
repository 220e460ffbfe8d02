"""PanopticFPN whose instances may be boxes alone."""

from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch.panoptic_fpn import PanopticFPN
from detectron2.modeling.postprocessing import detector_postprocess, sem_seg_postprocess


@META_ARCH_REGISTRY.register()
class BoxPanopticFPN(PanopticFPN):
    """Detectron2's PanopticFPN (Kirillov et al., CVPR 2019), without the step that merges masks and pixels.

    Detectron2's own asks for instance masks in evaluation, and takes pixel class 0 for "a thing"; this one
    answers with ``instances`` and ``sem_seg`` side by side, whatever the classes.
    """

    def inference(self, batched_inputs, do_postprocess=True):
        """See PanopticFPN; there is no ``panoptic_seg``."""
        detections, pixels = super().inference(batched_inputs, do_postprocess=False)
        if not do_postprocess:
            return detections, pixels
        return side_by_side(batched_inputs, detections, pixels)


def side_by_side(batched_inputs, detections, pixels):
    """Answers of a PanopticFPN without merging, in the sizes that the inputs ask for.

    Args:
        detections (list[Instances]), pixels (Tensor): as its ``inference`` with ``do_postprocess=False`` returns them.

    Returns:
        list[dict]: ``"instances"`` and ``"sem_seg"`` of each image.
    """
    answers = []
    for x, found, logits in zip(batched_inputs, detections, pixels):
        size = found.image_size
        height, width = x.get("height", size[0]), x.get("width", size[1])
        answers.append(
            {
                "instances": detector_postprocess(found, height, width),
                "sem_seg": sem_seg_postprocess(logits, size, height, width),
            }
        )
    return answers
