"""Segmenters: backbones from timm, a light decoder, anomaly scores, outlier losses. Knows nothing of MDAT or CACL."""
