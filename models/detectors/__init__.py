"""Face detectors with five landmarks: CenterFace, YuNet and SCRFD, interchangeable."""
