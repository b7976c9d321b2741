"""The data path: shards, the plan, reading, augmentation, pasting."""
