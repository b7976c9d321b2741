"""Records and files of a run: its folder, trackers, pictures, description and report."""
