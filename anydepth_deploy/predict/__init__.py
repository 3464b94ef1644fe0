"""``predict``: pictures and videos in, boxes drawn on them, detections in usual formats."""
