"""Find objects in a folder of images with a detector of torchvision, as a file for MODEL.MIC.LABELLER.

The weights are your own: a file of the detector's state dict, as torch.save writes it. The classes are those of your
weights, without background, or those of COCO. The command writes labels.json, a whole COCO file whose annotations have
scores. A training finds its images by their file names, so it may be made on another machine. Example:
    {program} --model fasterrcnn_resnet50_fpn_v2 --weights coco_detector.pth --images fog_images --output found
Then set, for example:
    MODEL.MIC.LABELLER.JSON /path/found/labels.json
    MODEL.MIC.LABELLER.CLASSES "{'car': ['car'], 'person': ['person']}"
"""

from ...utils.arguments import TRUST
from ...utils.outputs import add_overwrite_argument


def add(parser):
    parser.add_argument("--model", required=True, metavar="NAME", help="such as retinanet_resnet50_fpn_v2")
    parser.add_argument("--weights", required=True, metavar="FILE", help="state dict of this model")
    parser.add_argument("--images", required=True, metavar="FOLDER", help="searched recursively")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="folder for labels.json")
    parser.add_argument(
        "--classes", nargs="+", metavar="CLASS", help="of the weights, in their order, without background (COCO's)"
    )
    parser.add_argument(
        "--confidence-threshold", type=float, default=0.05, metavar="P", help="least score of a box (%(default)s)"
    )
    parser.add_argument("--device", help="cuda or cpu (cuda, where there is a GPU)")
    parser.add_argument(TRUST, action="store_true", help="run the code that is in the file of weights")
    add_overwrite_argument(parser)


def check(parser, args):
    if not 0 <= args.confidence_threshold <= 1:
        parser.error(f"--confidence-threshold {args.confidence_threshold}: use a number in [0, 1]")
