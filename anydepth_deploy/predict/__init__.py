"""``predict``: pictures and videos in, boxes drawn on them, detections in the formats of the field."""
