"""Numbers one can trust: pixel metrics in constant memory, mIoU, and intervals over images."""
