"""Segmenters without MDAT and CACL: timm backbones, a light decoder, external networks, scores, outlier losses."""
