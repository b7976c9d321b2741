"""Small parts that tests share."""
