"""What flows between rooms: batches, targets, detections, boxes and their coordinates."""
