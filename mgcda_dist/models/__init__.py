"""Segmenters: a backbone from timm, a light decoder, anomaly scores and outlier losses. Knows nothing of MDAT or CACL."""
