"""Keys of keypoints: pseudo-keypoints and their evaluation."""

from .rules import POSITIVE, SHARE, Key, Section

# fmt: off
KEYPOINT_SECTION = Section("Keypoints",
    "For Keypoint R-CNN students (MODEL.KEYPOINT_ON). MODEL.MIC.CONSISTENCY.KEYPOINT_WEIGHT adds them to L_M. The "
    "classes with keypoints are those whose category in the annotation file of the first set of DATASETS.TRAIN names "
    "them; every class where nothing tells.", (
        Key("MODEL.MIC.PSEUDO_KEYPOINTS.SCORE_THRESHOLD", 0.05, SHARE,
            "Least score of a pseudo-keypoint in a pseudo-box. The score is that of Detectron2's keypoint head: the "
            "probability of the best cell of the heat map. It is small even where the keypoint is right, because the "
            "probability is spread over neighbouring cells. A flat heat map of 28 x 28 cells has 0.001.",
            "probability", "Detectron2 draws keypoints from 0.05 on"),
        Key("TEST.KEYPOINT_PCK_SHARE", 0.1, POSITIVE,
            "PCK counts a keypoint as right up to this distance from the true one, as a share of the longer side of "
            "the true box.", "share", "PCK of Yang and Ramanan (2013): 0.1"),
    ))
