"""Labelled folders as people have them: COCO JSON, Pascal VOC XML and YOLO text, recognised and made COCO."""
