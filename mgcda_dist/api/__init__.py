"""The Python API: all that `import mgcda_dist as mg` offers. Nothing here prints or exits."""
